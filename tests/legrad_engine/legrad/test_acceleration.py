"""The switch has no effect beside CUDA devices, and says so."""

import logging
from typing import Any

import pytest
import torch

from legrad_engine.errors import InvalidOptionError
from legrad_engine.legrad.acceleration import Accelerator
from legrad_engine.legrad.rectified_product import sum_rectified_product

CPU = torch.device("cpu")


@pytest.mark.parametrize("value", ["kernel", "graphs", "all"])
def test_a_processor_computes_plainly_and_the_log_says_so(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "legrad_engine"):
        chosen = Accelerator.choose(value, CPU, (64, 64))
    assert (chosen.product, chosen.graphs) == (sum_rectified_product, None)
    assert f"accelerate={value} has no effect on the device cpu" in caplog.text


def test_without_acceleration_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "legrad_engine"):
        Accelerator.choose("off", CPU, (64, 64))
    assert not caplog.records


def test_an_unknown_value_is_refused() -> None:
    wrong: Any = "on"
    with pytest.raises(InvalidOptionError, match="off, kernel, graphs, all"):
        Accelerator.choose(wrong, CPU, (64, 64))
