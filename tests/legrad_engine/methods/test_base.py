"""The price of a method follows the score of the model; options that it cannot take are refused."""

import pytest

from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.base import Tower
from legrad_engine.methods.registry import find_method, methods
from tests.support.architectures import seeded_explainer


@pytest.fixture(scope="module")
def averaging() -> Tower:
    tower = Explainer.load("starter").tower
    assert tower.served_score == "mean"
    return tower


@pytest.fixture(scope="module")
def with_class_token() -> Tower:
    tower = seeded_explainer().tower
    assert tower.served_score == "cls"
    return tower


@pytest.mark.parametrize("name", ["agcam", "attention-cam", "chefercam", "grad-eclip", "gradcam"])
def test_following_all_tokens_costs_more_than_following_one(
    name: str, averaging: Tower, with_class_token: Tower
) -> None:
    (method,) = (each for each in methods() if each.name == name)
    layers = (averaging.depth - 1,)
    share = with_class_token.depth / averaging.depth
    for targets in (1, 8):
        whole = method.work(averaging, layers, targets) - 1
        row = method.work(with_class_token, (with_class_token.depth - 1,), targets) - 1
        # The same share of the model's depth, so that only the score differs.
        assert whole > 3 * row * share


def test_the_price_grows_with_targets_and_a_trace_is_saved(averaging: Tower) -> None:
    for method in methods():
        layers = method.layers(averaging, None)
        few, many = (method.work(averaging, layers, count) for count in (1, 8))
        assert (many > few) == (method.targeted and method.target_share > 0)
        assert 0 < method.work(averaging, layers, 1, traced=True) <= few - 1 + 0.001


@pytest.mark.parametrize("name", [method.name for method in methods()])
def test_a_method_refuses_the_blocks_that_it_says_it_cannot_explain(name: str) -> None:
    tower = seeded_explainer().tower
    (method,) = (each for each in methods() if each.name == name)
    if method.refusal(tower) is not None:
        pytest.skip("this model cannot have it")
    explained = {
        "any": [[0, 1, 2], [1, 2], [2], [0, 2]],
        "last-blocks": [[0, 1, 2], [1, 2], [2]],
        "last": [[2]],
        "all": [[0, 1, 2]],
    }
    taken = explained[method.layers_taken(tower)]
    for layers in explained["any"]:
        if layers in taken:
            assert method.layers(tower, layers) == tuple(layers)
        else:
            with pytest.raises(InvalidOptionError, match=f"'{name}' explains .*: .*use layers="):
                method.layers(tower, layers)
    assert list(method.layers(tower, None)) in taken


@pytest.mark.parametrize("name", ["clip-surgery", "rollout"])
def test_negatives_are_refused_where_they_would_not_mean_what_they_say(name: str) -> None:
    method = find_method(name, seeded_explainer().tower)
    with pytest.raises(InvalidOptionError, match="leave") as refused:
        method.check("mean", 1, negatives=True)
    assert refused.value.field == "negatives"
    method.check("mean", 1, negatives=False)
