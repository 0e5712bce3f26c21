"""Models of the commands: loaded with all that their reference tells."""

from pathlib import Path

import open_clip
import pytest
import torch

from legrad_engine import ClassTarget, Explainer
from service.bulk.console import load_model
from service.bulk.evaluation.command import _load
from service.bulk.evaluation.question import EvaluationQuestion
from service.bulk.questions import Question
from tests.support.own_models import write_classifier
from tests.support.shrunk_catalogue import shrunk_config

NAME = "ViT-L-14"


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Weights of an own file whose origin has another mean than open_clip's default."""
    config = shrunk_config(NAME)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, config)
    torch.save(open_clip.CLIP(**config).state_dict(), tmp_path / "tuned.pt")
    return f"{NAME}/laion2b_s32b_b82k@{tmp_path}/tuned.pt"


def test_the_preprocessing_is_that_of_the_origin(reference: str) -> None:
    for loaded in (
        Explainer.load(reference),
        load_model(Question(reference, ("a cat",)), "cpu"),
        _load(EvaluationQuestion(reference, "folder:.", ("segmentation",)), "cpu"),
    ):
        assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
        assert not loaded.preprocessing.is_guess


def test_a_number_is_the_name_of_a_class_before_it_is_an_index(tmp_path: Path) -> None:
    explainer = Explainer.load(write_classifier(tmp_path / "Digits", ["1", "2", "0"], 3))
    assert Question("digits", ("1", "0", "2")).targets(explainer) == [
        ClassTarget(label="1"),
        ClassTarget(label="0"),
        ClassTarget(label="2"),
    ]
    explainer = Explainer.load(write_classifier(tmp_path / "Cats", ["tench", "tabby"], 2))
    assert Question("cats", ("1", "tabby")).targets(explainer) == [
        ClassTarget(1),
        ClassTarget(label="tabby"),
    ]
