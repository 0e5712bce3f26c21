"""Maps on the device against the CPU in float64, for one model of each family and every dtype."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import workload
from benchmarks.accelerator.budget import Budget
from benchmarks.accelerator.findings import Agreement, Findings
from benchmarks.accelerator.models import FAMILIES, Build, HeldPixels, explainer_of, unsettle
from legrad_engine.devices import dtype_name
from legrad_engine.legrad.fused_product import FusedProduct
from legrad_engine.legrad.switches import Acceleration

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_IMAGES, _TARGETS = 2, 3


def modes(device: torch.device) -> tuple[Acceleration, ...]:
    """Return the accelerations to compare on a device, the plain one first."""
    return ("off", "kernel", "graphs", "all") if device.type == "cuda" else ("off",)


def measure(
    device: torch.device,
    budget: Budget,
    findings: Findings,
    families: Mapping[str, Build] = FAMILIES,
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> None:
    """Compare every family until the time is over."""
    with _exact_convolutions():
        for family, build in families.items():
            if not budget.left:
                findings.not_measured.append(f"agreement of {family}: no time left")
                continue
            try:
                _compare(family, build(), device, dtypes, findings)
            except Exception as error:
                findings.not_measured.append(
                    f"agreement of {family}: {type(error).__name__}: {error}"
                )


def in_use(explainer: HeldPixels) -> str:
    """Name the accelerated parts that an explainer has really used."""
    accelerator = explainer.accelerator
    parts = []
    if isinstance(accelerator.product, FusedProduct) and not accelerator.product.refused:
        parts.append("kernel")
    if accelerator.graphs is not None and accelerator.graphs.captured:
        parts.append(f"{accelerator.graphs.captured} graphs")
    return ", ".join(parts) or "neither"


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Convolve float32 as such: by default cuDNN rounds the factors to TensorFloat-32."""
    rounded = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = rounded


def _compare(
    family: str,
    model: nn.Module,
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    findings: Findings,
) -> None:
    model.eval().requires_grad_(False)
    unsettle(model)
    exact = explainer_of(copy.deepcopy(model).double(), family)
    expected = _maps(exact, 0)
    for dtype in dtypes:
        moved = copy.deepcopy(model).to(device, dtype)
        plain: NDArray[np.floating] | None = None
        for mode in modes(device):
            explainer = explainer_of(moved, family, mode)
            graphs = explainer.accelerator.graphs
            if graphs is not None:
                with graphs.capturing():
                    # Other pictures, so that a graph that ignores its input is found out.
                    _maps(explainer, _IMAGES)
            found = _maps(explainer, 0)
            plain = found if plain is None else plain
            largest = expected.max()
            pairs = zip(_flat(found), _flat(expected), strict=True)
            correlations = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs]
            findings.agreements.append(
                Agreement(
                    family=family,
                    dtype=dtype_name(dtype),
                    acceleration=mode,
                    in_use=in_use(explainer),
                    error=float(np.abs(found - expected).max() / largest),
                    correlation=float(min(correlations)),
                    from_plain=float(np.abs(found - plain).max() / largest),
                )
            )


def _flat(maps: NDArray[np.floating]) -> NDArray[np.floating]:
    return maps.reshape(-1, *maps.shape[2:])


def _maps(explainer: HeldPixels, first: int) -> NDArray[np.floating]:
    """Compute maps ``[images, targets, rows, columns]`` of the pictures from a seed on."""
    width, height = explainer.own_size
    pictures = [workload.picture(width, height, first + seed) for seed in range(_IMAGES)]
    vectors = workload.targets(_TARGETS, explainer.tower.embedding_size)
    found = explainer.attribute(explainer.trace(pictures, layers="all"), vectors)
    return np.stack([each.maps for each in found]).astype(np.float64)
