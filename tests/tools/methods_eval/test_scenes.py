"""Scenes as a data set: exact masks, the same scene for the same key."""

from pathlib import Path

import numpy as np
import pytest

from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.samples import Options
from tests.support.art import NAMES, write_art
from tools.methods_eval.scenes import SCENES, SPLITS, Scenes

pytest.importorskip("skimage", reason="the backgrounds need the optional extra 'starter'")


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_has_the_stickers_of_its_split_with_their_masks(split: str, tmp_path: Path) -> None:
    write_art(tmp_path)
    data = Scenes(tmp_path, Options(split))
    assert list(data.classes) == list(NAMES)
    entries = [entry for entry, _ in zip(data.entries(), range(6), strict=False)]
    for entry in entries:
        sample = entry.load()
        again = entry.load()
        assert sample.picture.tobytes() == again.picture.tobytes()
        assert len(sample.annotations) in SPLITS[split][0]
        total = np.zeros(sample.picture.size[::-1], int)
        for annotation in sample.annotations:
            assert annotation.name == NAMES[annotation.index]
            assert annotation.mask is not None
            assert annotation.mask.any()
            total += annotation.mask
        assert total.max() == 1
    assert len({entry.load().picture.tobytes() for entry in entries}) == len(entries)


def test_keys_are_unique_over_both_splits(tmp_path: Path) -> None:
    write_art(tmp_path)
    keys = [entry.key for split in SPLITS for entry in Scenes(tmp_path, Options(split)).entries()]
    assert len(set(keys)) == len(keys) == 2 * SCENES


def test_missing_art_and_an_unknown_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="splits are several, single"):
        Scenes(tmp_path, Options("test"))
    with pytest.raises(DataSetError, match=r"sprites\.json"):
        Scenes(tmp_path, Options("single"))
