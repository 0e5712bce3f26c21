"""The published figures stand under names that our evaluation has."""

import pytest

from legrad_engine.evaluation.published import PUBLISHED, Published, published_figure
from legrad_engine.evaluation.registry import data_sets, find_protocol
from legrad_engine.methods.registry import methods
from tests.support.paths import ROOT


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.method} {row.figure}")
def test_every_published_figure_is_one_that_we_measure(row: Published) -> None:
    assert row.data in data_sets()
    assert row.method in {method.name for method in methods()}
    assert row.figure in {figure.name for figure in find_protocol(row.protocol)().summarize([])}
    assert f"PAPER_MODEL = {row.model}\n" in (ROOT / "Makefile").read_text()


def test_the_figures_of_legrad_are_those_of_its_paper() -> None:
    model = "ViT-B-16/laion2b_s34b_b88k"
    expected = {
        ("gtsegs", "segmentation", "pixel accuracy, threshold 0.5"): 77.52,
        ("gtsegs", "segmentation", "mIoU, threshold 0.5"): 58.66,
        ("gtsegs", "segmentation", "mAP"): 82.49,
        ("imagenet", "perturbation", "negative AUC, predicted class"): 50.24,
        ("imagenet", "perturbation", "positive AUC, predicted class"): 15.06,
    }
    for (data, protocol, figure), value in expected.items():
        found = published_figure(model, data, protocol, "legrad", figure)
        assert found is not None
        assert found.value == value
