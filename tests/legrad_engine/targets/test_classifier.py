"""Classes of an image model: their names and indices."""

from typing import Any

import pytest
import torch
from timm.data import ImageNetInfo

from legrad_engine.errors import (
    InvalidTargetError,
)
from legrad_engine.targets.classifier import Classifier
from tests.support.seeded_timm import seeded


def classifier(labels: tuple[str, ...] | None, classes: int | None = None) -> Classifier:
    return Classifier(torch.eye(classes or len(labels or ())), None, labels)


def test_a_head_of_more_than_one_layer_is_no_classifier() -> None:
    visual = seeded(img_size=64, num_classes=5)
    visual.head = torch.nn.Sequential(torch.nn.Linear(48, 8), torch.nn.Linear(8, 5))
    assert Classifier.of(visual) is None


def test_imagenet_classes_are_known_by_any_of_their_names() -> None:
    found = Classifier.of(seeded(img_size=64))
    assert found is not None
    assert found.labels == tuple(ImageNetInfo().label_descriptions())
    assert found.index_of("tabby, tabby cat") == 281
    assert found.index_of("Tabby") == 281
    assert found.index_of("  TABBY   cat ") == 281
    assert found.index_of("golden_retriever") == 207
    assert found.index_of(0) == 0
    assert found.index_of(999) == 999


def test_an_ambiguous_name_is_answered_with_the_indices() -> None:
    found = Classifier.of(seeded(img_size=64))
    assert found is not None
    with pytest.raises(InvalidTargetError, match=r"134 .*517") as refusal:
        found.index_of("crane")
    assert refusal.value.field == "targets"


def test_a_whole_label_goes_before_a_name_in_another_one() -> None:
    found = classifier(("projectile, missile", "missile"))
    assert found.index_of("missile") == 1
    assert found.index_of("projectile") == 0


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    found = Classifier.of(seeded(img_size=64))
    assert found is not None
    with pytest.raises(InvalidTargetError, match="golden retriever"):
        found.index_of("goldn retriver")
    with pytest.raises(InvalidTargetError, match="tabby cat"):
        found.index_of("cat")
    with pytest.raises(InvalidTargetError, match="no class 'qqqq'"):
        found.index_of("qqqq")


@pytest.mark.parametrize("class_", [-1, 3, 10**30, True, "", " ", None, 1.0, "x" * 10**6], ids=str)
def test_what_is_no_class_is_refused(class_: Any) -> None:
    with pytest.raises(InvalidTargetError) as refusal:
        classifier(("cat", "dog", "owl")).index_of(class_)
    assert refusal.value.field == "targets"
    assert len(str(refusal.value)) < 300


def test_the_range_is_told_for_an_index_and_for_classes_without_names() -> None:
    with pytest.raises(InvalidTargetError, match="0 to 2"):
        classifier(("cat", "dog", "owl")).index_of(3)
    with pytest.raises(InvalidTargetError, match="0 to 4"):
        classifier(None, classes=5).index_of("cat")
    assert classifier(None, classes=5).index_of(4) == 4


def test_a_name_is_known_whether_or_not_classes_share_it() -> None:
    shared = classifier(("crane, bird", "crane", "2"))
    assert [shared.has_name(text) for text in ("Crane", "bird", "2", "1", "owl")] == [
        *(True, True, True),
        *(False, False),
    ]
    assert not classifier(None, classes=5).has_name("2")
