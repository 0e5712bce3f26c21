"""Search among the classes of an image model."""

import pytest
import torch
from timm.data import ImageNetInfo

from legrad_engine.targets.class_search import search_classes
from legrad_engine.targets.classifier import Classifier

LABELS = ("tench, Tinca tinca", "tabby_cat, cat", "catamaran", "cougar, wild cat", "crane", "crane")


def classifier(labels: tuple[str, ...] | None, count: int = len(LABELS)) -> Classifier:
    return Classifier(torch.zeros(count, 2), None, labels)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        (" ", [0, 1, 2, 3, 4, 5]),
        # A name, a word of a name, and a part of a word.
        ("cat", [1, 3, 2]),
        ("  CAT ", [1, 3, 2]),
        ("tabby cat", [1]),
        ("cat tabby", [1]),
        ("tinca tench", [0]),
        ("crane", [4, 5]),
        ("5", [5]),
        ("6", []),
        ("dog", []),
    ],
)
def test_classes_are_found_the_closest_first(search: str, found: list[int]) -> None:
    assert search_classes(classifier(LABELS), search) == found


def test_an_index_comes_before_labels_that_contain_the_number() -> None:
    labels = ("Boeing 737", "Boeing 747", "707", "1")
    assert search_classes(classifier(labels, 4), "7") == [0, 1, 2]
    assert search_classes(classifier(labels, 4), "747") == [1]
    assert search_classes(classifier(labels, 4), "1") == [1, 3]


def test_classes_without_labels_are_found_by_index_alone() -> None:
    assert search_classes(classifier(None), "4") == [4]
    assert search_classes(classifier(None), "cat") == []
    assert search_classes(classifier(None), "") == list(range(6))


def test_every_label_of_imagenet_finds_its_class() -> None:
    labels = tuple(ImageNetInfo("imagenet-22k").label_descriptions())
    imagenet = classifier(labels, len(labels))
    assert len(labels) > 21_000
    for index in range(0, len(labels), 1500):
        assert index in search_classes(imagenet, labels[index])
