"""The fused kernel against float64, by Triton's interpreter on the CPU; and compiled for cards."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")


def interpreted(part: str) -> dict[str, float]:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.support.interpreted_kernel", part],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    errors: dict[str, float] = json.loads(finished.stdout)
    return errors


def test_sums_equal_float64_for_every_shape_and_dtype() -> None:
    errors = interpreted("sums")
    assert len(errors) == 4 * 6
    # Inputs of half precision are exact in float32, so all dtypes have float32's error.
    assert {case: error for case, error in errors.items() if not error < 1e-5} == {}


@pytest.mark.parametrize(
    ("capability", "served"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_cards_without_units_for_matrices_are_left_to_the_tiled_product(
    capability: tuple[int, int], served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from legrad_engine.legrad import fused_kernel

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    fused_kernel._has_matrix_units.cache_clear()
    assert fused_kernel._has_matrix_units(torch.device("cuda", 0)) is served
    fused_kernel._has_matrix_units.cache_clear()


@pytest.mark.slow
def test_every_route_makes_the_same_maps_with_the_kernel() -> None:
    errors = interpreted("maps")
    assert set(errors) == {"closed form", "general", "pooler"}
    assert max(errors.values()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "dtype", "width", "product"),
    [(80, "bf16", 64, "mma.sync"), (80, "fp16", 72, "mma.sync"), (90, "bf16", 80, "wgmma.mma")],
)
def test_cards_multiply_on_tensor_cores_and_load_ahead(
    capability: int,
    dtype: str,
    width: int,
    product: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from legrad_engine.legrad import fused_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel: Any = fused_kernel._kernel
    blocks = fused_kernel._Blocks.of(width, 2)
    constants = {
        "WIDTH": width,
        "BLOCK_ROWS": blocks.rows,
        "BLOCK_KEYS": blocks.keys,
        "BLOCK_WIDTH": blocks.width,
        "PRECISION": "ieee",
        "gradient_item": 1,
        "values_item": 1,
    }
    pointers = {"gradient": f"*{dtype}", "values": f"*{dtype}", "sums": "*fp32"}
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in kernel.arg_names
    }
    # As Triton finds them at a call: addresses, and strides of whole tokens.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name.startswith(("gradient", "values", "sums")) and name not in constants
    }
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": blocks.warps, "num_stages": blocks.stages},
    )
    assert product in compiled.asm["ptx"]
    assert "cp.async" in compiled.asm["ptx"]
    # No register is spilled, and the blocks fit on every card.
    assert ".local" not in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 48 << 10
