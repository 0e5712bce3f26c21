"""Run lengths of COCO, as numbers and as its text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from legrad_engine.evaluation.coco_masks import decode_counts, mask_of
from tests.support.evaluation_data import run_lengths


def encode_counts(counts: list[int]) -> str:
    """COCO's text of run lengths, by the definition of its C code."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr(bits + 48 + (0x20 if more else 0))
    return text


def test_numbers_from_the_fourth_on_are_differences() -> None:
    assert decode_counts("42102") == [4, 2, 1, 2, 3]
    assert decode_counts(encode_counts([100, 2000, 3, 1, 70])) == [100, 2000, 3, 1, 70]


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70)))
def test_masks_survive_both_forms(mask: np.ndarray) -> None:
    height, width = mask.shape
    counts = run_lengths(mask)
    for form in (counts, encode_counts(counts)):
        segmentation = {"size": [height, width], "counts": form}
        assert np.array_equal(mask_of(segmentation, (width, height), "it"), mask)


@pytest.mark.parametrize("text", ["\x10", "P"])
def test_a_text_outside_the_code_or_cut_off_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run length"):
        decode_counts(text)


def test_polygons_of_a_class_are_joined() -> None:
    boxes = [[0, 0, 4, 0, 4, 2, 0, 2], [6, 1, 8, 1, 8, 3, 6, 3]]
    mask = mask_of(boxes, (9, 4), "it")
    expected = np.zeros((4, 9), bool)
    expected[:2, :4] = True
    expected[1:3, 6:8] = True
    assert np.array_equal(mask, expected)
