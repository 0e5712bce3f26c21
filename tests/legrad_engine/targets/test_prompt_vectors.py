"""Copies of one model embed a prompt once; its vector reaches other devices by the host."""

from collections.abc import Sequence
from typing import Self

import pytest
import torch
from torch import Tensor

from legrad_engine.targets import prompt_vectors
from legrad_engine.targets.prompt_vectors import PromptVectors
from legrad_engine.targets.text import NoText, TextEncoder, share_vectors
from tests.support.architectures import tokenizer
from tests.support.counting_text_model import CountingModel

# Two names of one processor, which the cache takes for two devices.
FIRST, SECOND = torch.device("cpu"), torch.device("cpu:0")
CAT, DOG, BIRD = [(animal, ("{}",)) for animal in ("a cat", "a dog", "a bird")]


class Travelling:
    """A copy to the host that arrives, or fails, when the test says so."""

    made: list[Self]

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [tensor.clone() for tensor in tensors]
        self.done = False
        self.lost = False

    @classmethod
    def start(cls, tensors: Sequence[Tensor]) -> Self:
        cls.made.append(cls(tensors))
        return cls.made[-1]

    def wait(self) -> list[Tensor]:
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self.tensors


@pytest.fixture
def travelling(monkeypatch: pytest.MonkeyPatch) -> list[Travelling]:
    made: list[Travelling] = []
    monkeypatch.setattr(Travelling, "made", made, raising=False)
    monkeypatch.setattr(prompt_vectors, "Download", Travelling)
    return made


@pytest.fixture
def vectors() -> PromptVectors:
    return PromptVectors(3, devices=2)


@pytest.mark.parametrize("second", [FIRST, SECOND])
def test_copies_of_a_model_embed_a_prompt_once(second: torch.device) -> None:
    models = CountingModel(), CountingModel()
    encoders = [
        TextEncoder(model, tokenizer(), device)
        for model, device in zip(models, (FIRST, second), strict=True)
    ]
    share_vectors([*encoders, NoText()])
    one, other = encoders
    made = one.encode(["a cat", "a dog"])
    assert all(each.is_cached("a cat") for each in encoders)
    assert torch.equal(other.encode(["a dog", "a cat"]), made[[1, 0]])
    assert [model.texts for model in models] == [2, 0]


def test_a_single_copy_keeps_its_cache_and_its_vectors_stay_on_the_device(
    travelling: list[Travelling],
) -> None:
    model = CountingModel()
    encoder = TextEncoder(model, tokenizer(), FIRST)
    encoder.encode(["a cat"])
    share_vectors([encoder])
    encoder.encode(["a cat"])
    assert model.texts == 1
    assert travelling == []


def test_no_device_waits_for_the_vector_of_another(
    vectors: PromptVectors, travelling: list[Travelling]
) -> None:
    made = torch.eye(3)
    vectors.put([CAT, DOG], made[:2], FIRST)
    assert vectors.get(CAT, SECOND) is None
    # The device that made it reads it in the order of its own work.
    assert vectors.get(CAT, FIRST) is not None
    (download,) = travelling
    download.done = True
    found = vectors.get(DOG, SECOND)
    assert found is not None
    assert torch.equal(found, made[1])
    # Not a view of all vectors that were made together.
    assert found.untyped_storage().nbytes() == found.nbytes


def test_vectors_that_a_failed_device_held_are_embedded_anew(
    vectors: PromptVectors, travelling: list[Travelling]
) -> None:
    vectors.put([CAT], torch.ones(1, 3), FIRST)
    travelling[0].done = travelling[0].lost = True
    assert vectors.get(CAT, SECOND) is None
    vectors.put([CAT], torch.zeros(1, 3), SECOND)
    found = vectors.get(CAT, SECOND)
    assert found is not None
    assert not found.any()


def test_what_has_arrived_holds_no_copy_of_the_device(
    vectors: PromptVectors, travelling: list[Travelling]
) -> None:
    for prompt in (CAT, DOG, BIRD):
        vectors.put([prompt], torch.ones(1, 3), FIRST)
        travelling[-1].done = True
    assert len(vectors._arriving) == 1
