"""The tiled product computes the sum wherever the fused kernel cannot."""

import logging
import sys

import pytest
import torch
from torch import Tensor

from legrad_engine.legrad.fused_product import FusedProduct
from legrad_engine.legrad.rectified_product import sum_rectified_product


def tensors(dtype: torch.dtype = torch.float32, width: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(2, 3, 2, 5, width, generator=generator).to(dtype)
    return gradient, torch.randn(2, 2, 7, width, generator=generator).to(dtype)


def assert_falls_back(
    product: FusedProduct, caplog: pytest.LogCaptureFixture, *inputs: Tensor
) -> str:
    """Computes twice; returns the one warning."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "legrad_engine"):
        for _ in range(2):
            torch.testing.assert_close(product(*inputs), sum_rectified_product(*inputs))
    (record,) = caplog.records
    return record.getMessage()


def test_other_devices_never_see_the_kernel(caplog: pytest.LogCaptureFixture) -> None:
    inputs = tensors()
    assert torch.equal(FusedProduct()(*inputs), sum_rectified_product(*inputs))
    assert not caplog.records


def test_a_kernel_that_does_not_start_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton")
    # Triton has no driver for the CPU.
    product = FusedProduct("cpu")
    warning = assert_falls_back(product, caplog, *tensors())
    assert "heads of width 16 on cpu" in warning
    assert product.refused
    # Other kinds of tensors are tried for themselves.
    assert "width 24" in assert_falls_back(product, caplog, *tensors(width=24))


def test_without_triton_the_tiled_product_is_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "legrad_engine.legrad.fused_kernel", raising=False)
    monkeypatch.delattr("legrad_engine.legrad.fused_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "triton" in assert_falls_back(FusedProduct("cpu"), caplog, *tensors())


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.float64, 16), (torch.float32, 257)], ids=["float64", "wide"]
)
def test_kinds_that_the_kernel_is_not_made_for_take_the_tiled_product(
    dtype: torch.dtype, width: int, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("triton")
    warning = assert_falls_back(FusedProduct("cpu"), caplog, *tensors(dtype, width))
    assert f"{dtype} with heads of width {width}" in warning


def test_exhausted_memory_is_left_to_the_batcher(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")

    def exhaust(*inputs: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("legrad_engine.legrad.fused_kernel.sum_rectified_product", exhaust)
    product = FusedProduct("cpu")
    with pytest.raises(torch.OutOfMemoryError):
        product(*tensors())
    assert not product.refused
