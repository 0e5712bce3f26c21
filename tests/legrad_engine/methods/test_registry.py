"""An explanation method is one file: found, offered, refused, computed and served by itself."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from legrad_engine import methods as package
from legrad_engine.discovery import import_modules
from legrad_engine.errors import InvalidOptionError
from legrad_engine.methods import registry
from legrad_engine.methods.registry import find_method, methods, register
from tests.support.architectures import seeded_explainer
from tests.support.cached_questions import body_of, maps_of
from tests.support.paths import DOCS
from tests.support.pictures import picture
from tests.support.running_app import RunningApp
from tools import methods_page

NEW_METHOD = Path(__file__).parent / "new_method"
NAME = "legrad_engine.methods.made_up"


@pytest.fixture
def _made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the file of a new method beside the others."""
    methods()
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(NEW_METHOD)])
    import_modules.cache_clear()
    yield
    del sys.modules[NAME]
    vars(package).pop("made_up")
    import_modules.cache_clear()


@pytest.mark.usefixtures("_made_up")
def test_a_new_file_is_served(tiny_model: str) -> None:
    with RunningApp(tiny_model, decoding="exact") as running:
        (model,) = running.client.get("/models").json()["models"]
        offered = {each["name"]: each for each in model["methods"]}
        assert offered["made-up"]["description"].startswith("The length of each token")
        assert (offered["made-up"]["layers"], offered["made-up"]["score"]) == ([2], "cls")
        (image,) = running.explain(body_of(1, method="made-up")).json()["images"]
        assert image["method"] == {"name": "made-up", "targeted": True, "note": None}
        explainer = running.model.explainer
        (expected,) = explainer.explain(picture(seed=1), ["a cat"], method="made-up")
        assert maps_of(image) == pytest.approx(expected.maps, rel=1e-4)
    assert "## Made up" in methods_page.page(DOCS)


@pytest.mark.usefixtures("_made_up")
def test_a_method_is_refused_where_the_model_cannot_have_it() -> None:
    averaged = seeded_explainer(pool_type="avg")
    with pytest.raises(InvalidOptionError, match=r"'made-up' is not offered .* a class token") as e:
        averaged.explain(picture(), ["a cat"], method="made-up")
    assert e.value.field == "method"
    assert "made-up" not in [each.name for each in averaged.methods]


def test_the_default_comes_first_and_no_name_twice() -> None:
    names = [method.name for method in methods()]
    assert names[0] == "legrad"
    assert names[1:] == sorted(set(names[1:]))
    with pytest.raises(ValueError, match="registered twice"):
        register(methods()[0])


def test_every_method_is_described_in_three_short_lines() -> None:
    for method in methods():
        lines = method.description.splitlines()
        assert 1 <= len(lines) <= 3
        assert max(map(len, lines)) <= 100
        assert method.title
        assert method.source


def test_an_unknown_method_is_refused_with_those_offered() -> None:
    explainer = seeded_explainer()
    offered = ", ".join(each.name for each in explainer.methods)
    for name in ("gradcan", "", "x" * 10_000):
        with pytest.raises(InvalidOptionError, match=f"is unknown.*offers {offered}") as refused:
            find_method(name, explainer.tower)
        assert len(str(refused.value)) < 500
