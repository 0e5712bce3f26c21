"""Maps and scores of photographs that are decoded fast, with the built-in model."""

import pytest

from benchmarks.fidelity import (
    FITS,
    ODD_SIZES,
    PROMISES,
    SCALES,
    STRIPS,
    Case,
    compare,
)
from legrad_engine import Explainer
from legrad_engine.images.fits import Fit

ENLARGED, THIN, TURNED = PROMISES.values()


@pytest.fixture(scope="module")
def starter() -> Explainer:
    return Explainer.load("starter")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["cat.jpg", "coffee.webp", "photographer.png"])
def test_maps_and_scores_are_nearly_those_of_exact_decoding(
    starter: Explainer, name: str, scale: int
) -> None:
    found = compare(starter, Case(name, scale=scale))
    # Not 1: it was resized fast, and the enlarged one was decoded smaller.
    assert ENLARGED.correlation <= found.correlation < 1 - 1e-9
    assert found.difference <= ENLARGED.difference


@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("size", ODD_SIZES)
def test_a_turned_picture_of_an_odd_size_is_explained_as_others(
    starter: Explainer, size: tuple[int, int], orientation: int
) -> None:
    found = compare(starter, Case("cat.jpg", size, orientation=orientation))
    assert found.correlation >= TURNED.correlation
    assert found.difference <= TURNED.difference


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", STRIPS)
def test_strips_are_explained_as_others(
    starter: Explainer, size: tuple[int, int], fit: Fit
) -> None:
    found = compare(starter, Case("cat.jpg", size, fit=fit))
    assert found.correlation >= THIN.correlation
    assert found.difference <= THIN.difference
