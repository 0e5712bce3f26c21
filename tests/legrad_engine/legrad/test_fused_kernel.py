"""The fused kernel against float64, by Triton's interpreter on the CPU."""

import json
import os
import subprocess
import sys

import pytest

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
    assert {case: error for case, error in errors.items() if not error < 1e-6} == {}


@pytest.mark.slow
def test_every_route_makes_the_same_maps_with_the_kernel() -> None:
    errors = interpreted("maps")
    assert set(errors) == {"closed form", "general", "pooler"}
    assert max(errors.values()) < 1e-5
