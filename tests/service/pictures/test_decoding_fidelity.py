"""Maps and scores of photographs that are decoded fast, with the built-in model."""

import pytest

from benchmarks.fidelity import LARGEST_DIFFERENCE, LEAST_CORRELATION, SCALES, compare, photograph
from legrad_engine import Explainer


@pytest.fixture(scope="module")
def starter() -> Explainer:
    return Explainer.load("starter")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["cat.jpg", "coffee.webp", "photographer.png"])
def test_maps_and_scores_are_nearly_those_of_exact_decoding(
    starter: Explainer, name: str, scale: int
) -> None:
    found = compare(starter, photograph(name, scale))
    # Not 1: it was resized fast, and the enlarged one was decoded smaller.
    assert LEAST_CORRELATION <= found.correlation < 1 - 1e-9
    assert found.difference <= LARGEST_DIFFERENCE
