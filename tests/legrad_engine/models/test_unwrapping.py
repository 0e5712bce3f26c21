"""Weights inside the containers of training programs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from legrad_engine.errors import ModelLoadError
from legrad_engine.models.unwrapping import unwrap

WEIGHTS = {"visual.proj": torch.ones(2), "logit_scale": torch.tensor(3.0)}
OLD = {name: value + 1 for name, value in WEIGHTS.items()}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}


def assert_weights(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3, "name": "run", "optimizer": OPTIMIZER},
        {"model_state_dict": WEIGHTS, "optimizer_state_dict": OPTIMIZER},
        {"net": WEIGHTS, "acc": 0.9},
        {"params": WEIGHTS, "params_ema": {}},
        {"params": OLD, "params_ema": WEIGHTS},
        {"state_dict": OLD, "state_dict_ema": WEIGHTS},
        {"model": OLD, "ema": {"module": WEIGHTS, "decay": 0.99}},
        {"student": OLD, "teacher": WEIGHTS, "dino_loss": {"center": torch.zeros(1)}},
        {"model": {"state_dict": WEIGHTS}},
        # A name that nobody knows is found because nothing else holds tensors.
        {"my_network": WEIGHTS, "epoch": 3, "optimizer": OPTIMIZER},
        {**WEIGHTS, "epoch": 3, "config": {"lr": 0.1}, "note": "best"},
        # Lightning, with the best score as a tensor beside the weights.
        {"state_dict": WEIGHTS, "best_model_score": torch.tensor(0.9), "callbacks": {}},
    ],
    ids=lambda content: "+".join(map(str, content)),
)
def test_the_weights_are_found_in_their_container(content: dict[str, Any]) -> None:
    assert_weights(unwrap(content, "w.pt"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"model.net.{name}",
        lambda name: f"a_wrapper_that_nobody_knows.{name}",
    ],
)
@pytest.mark.parametrize("averaged", [False, True])
def test_a_prefix_that_all_names_share_is_taken_off(
    wrap: Callable[[str], str], averaged: bool
) -> None:
    content = {wrap(name): value for name, value in WEIGHTS.items()}
    if averaged:
        content = {
            "n_averaged": torch.tensor(7),
            **{f"module.{name}": value for name, value in content.items()},
        }
    assert_weights(unwrap({"state_dict": content}, "w.pt"))


def test_an_averaged_model_is_what_torch_saves() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(model))
    averaged.update_parameters(torch.nn.DataParallel(model))
    assert unwrap(averaged.state_dict(), "w.pt").keys() == model.state_dict().keys()


@pytest.mark.parametrize("prefix", ["visual", "beit3"])
def test_a_prefix_that_converters_look_for_is_kept(prefix: str) -> None:
    content = {f"{prefix}.a": torch.zeros(1), f"{prefix}.b.c": torch.zeros(1)}
    assert unwrap(content, "w.pt").keys() == content.keys()


def test_several_sets_of_weights_are_named_instead_of_chosen() -> None:
    with pytest.raises(ModelLoadError, match=r"several sets of weights \(first, second\)"):
        unwrap({"first": WEIGHTS, "second": OLD}, "w.pt")


@pytest.mark.parametrize("content", [None, 3, [], {}, {"state_dict": {}}, OPTIMIZER, {1: 2}])
def test_a_content_without_weights_is_refused(content: object) -> None:
    with pytest.raises(ModelLoadError, match=r"^w\.pt holds no weights"):
        unwrap(content, "w.pt")


def test_a_container_that_holds_itself_ends_in_a_refusal() -> None:
    circle: dict[str, Any] = {}
    circle["model"] = circle
    with pytest.raises(ModelLoadError, match="holds no weights"):
        unwrap(circle, "w.pt")
