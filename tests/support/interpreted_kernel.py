"""The fused kernel on the CPU, by Triton's interpreter: a program that prints its errors as JSON.

Its argument is ``sums`` or ``maps``. The interpreter is chosen when triton is imported, so this
runs in a process of its own, with ``TRITON_INTERPRET=1``.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from legrad_engine.legrad import fused_kernel

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# Images, targets, heads, query rows, keys, width of a head.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 2, 3, 5, 7, 16),
    (1, 2, 2, 70, 66, 64),
    (2, 1, 3, 33, 65, 80),
    (1, 1, 1, 17, 18, 256),
    (3, 1, 5, 1, 50, 72),
]
# Programs that the kernel aims at: one for all heads of a picture, or as many as it can use.
PROGRAMS = (1, 100)


def teach_bfloat16() -> None:
    """Make the interpreter multiply bfloat16 numbers, which it has as whole numbers, by value."""
    builder: Any = interpreter.InterpreterBuilder
    multiply = builder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar.name != "bf16":
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), interpreter.tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return multiply(self, widened(a), widened(b), *others)

    builder.create_dot = create_dot


def exact(gradient: Tensor, values: Tensor) -> Tensor:
    product = torch.einsum("bphrd,bhnd->bphrn", gradient.double(), values.double())
    return product.relu().sum((2, 3))


def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Make gradient and values of the layouts that blocks have: rows before heads."""
    images, targets, heads, rows, keys, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    gradient = torch.randn(images, targets, rows, heads, width, generator=generator)
    values = torch.randn(images, keys, heads, width, generator=generator)
    # The only product of the smallest shape would be 0 if it were negative.
    if gradient.numel() == 1:
        gradient, values = gradient.abs(), values.abs()
    return gradient.to(dtype).transpose(2, 3), values.to(dtype).transpose(1, 2)


def errors_of_sums() -> dict[str, float]:
    """Compare the sums with float64, relative to the largest one."""
    errors = {}
    chosen: Any = fused_kernel
    for name, dtype in DTYPES.items():
        for shape in SHAPES:
            gradient, values = tensors(shape, dtype)
            expected = exact(gradient, values)
            for programs in PROGRAMS if dtype == torch.float32 else PROGRAMS[:1]:
                chosen._programs_wanted = lambda _, wanted=programs: wanted
                found = fused_kernel.sum_rectified_product(gradient, values)
                if found.shape != expected.shape or found.dtype != torch.float32:
                    raise RuntimeError("the sums have another shape or dtype")
                error = (found - expected).abs().max() / expected.max()
                errors[f"{name} {shape} {programs}"] = float(error)
    gradient, values = tensors((1, 1, 2, 3, 4, 16), torch.float32)
    gradient[0, 0, 1, 2, 3] = torch.nan
    if not fused_kernel.sum_rectified_product(gradient, values).isnan().all():
        raise RuntimeError("the kernel hides a value that is not a number")
    return errors


def errors_of_maps() -> dict[str, float]:
    """Compare whole explanations with those of the tiled product, relative to the largest value."""
    from PIL import Image

    from legrad_engine import Explainer
    from legrad_engine.legrad.fused_product import FusedProduct
    from tests.support.architectures import seeded_explainer
    from tests.support.shrunk_catalogue import shrunk_model

    explainers = {
        "closed form": seeded_explainer(),
        "general": seeded_explainer(block_type="custom"),
        "pooler": Explainer(
            shrunk_model("ViT-B-16-SigLIP", dtype=torch.float32), None, name="pooler"
        ),
    }
    pictures = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))
        for seed in range(2)
    ]
    errors = {}
    for name, explainer in explainers.items():
        vectors = torch.eye(explainer.tower.embedding_size)[:3]
        trace = explainer.trace(pictures, layers=1)
        plain = explainer.attribute(trace, vectors)
        product = FusedProduct("cpu")
        explainer.accelerator = replace(explainer.accelerator, product=product)
        fused = explainer.attribute(trace, vectors)
        if product.refused:
            raise RuntimeError("the kernel was not used")
        errors[name] = max(
            float(np.abs(one.maps - other.maps).max() / other.maps.max())
            for one, other in zip(fused, plain, strict=True)
        )
    return errors


if __name__ == "__main__":
    teach_bfloat16()
    print(json.dumps({"sums": errors_of_sums, "maps": errors_of_maps}[sys.argv[1]]()))
