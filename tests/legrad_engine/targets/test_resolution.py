"""Every kind of target becomes the unit vector it stands for, and its map is that vector's."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine import Explainer, Explanation
from legrad_engine.errors import ImageDecodeError, InvalidTargetError
from legrad_engine.images.decoding import ImageSource
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets import (
    ClassTarget,
    ContrastTarget,
    EmbeddingTarget,
    ImageTarget,
    ResidualTarget,
    Target,
    TextTarget,
)
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.questions import Question
from tests.support.architectures import EMBEDDING_SIZE, seeded_explainer
from tests.support.pictures import encoded, picture

CLASSES = 5


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    """A float64 model with a classifier beside its text tower."""
    explainer = seeded_explainer(dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    explainer.classifier = Classifier(
        torch.randn(CLASSES, EMBEDDING_SIZE, generator=generator, dtype=torch.float64),
        torch.randn(CLASSES, generator=generator, dtype=torch.float64),
        ("tench", "tabby", "beagle", "sofa", "barn"),
    )
    return explainer


def text(*words: str) -> TextTarget:
    return TextTarget(texts=words)


def embedding(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(EMBEDDING_SIZE, generator=generator, dtype=torch.float64)


def vectors_of(explainer: Explainer, *targets: Target | str) -> Tensor:
    (resolved,) = explainer.resolver.resolve(list(targets), 1)
    return resolved.vectors


def explained(explainer: Explainer, *targets: Target | str) -> Explanation:
    (explanation,) = explainer.explain([picture()], list(targets))
    return explanation


def test_a_string_is_a_text(explainer: Explainer) -> None:
    found = vectors_of(explainer, "a cat", text("a cat"))
    assert torch.equal(found, explainer.text.encode(["a cat", "a cat"]))


def test_several_texts_are_the_normalised_mean_of_their_unit_vectors(explainer: Explainer) -> None:
    words = ["a cat", "a tabby", "a red tomcat"]
    expected = F.normalize(explainer.text.encode(words).mean(0), dim=0)
    assert torch.allclose(vectors_of(explainer, text(*words))[0], expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 1e-300, 1e300, -7], ids=str)
def test_an_embedding_is_normalised_whatever_its_length(explainer: Explainer, scale: float) -> None:
    vector = embedding()
    expected = F.normalize(vector * np.sign(scale), dim=0)
    for given in (vector * scale, (vector * scale).numpy(), (vector * scale).tolist()):
        found = vectors_of(explainer, EmbeddingTarget(given))
        assert torch.allclose(found[0], expected, atol=1e-12)


def test_an_image_is_the_embedding_that_the_model_serves(explainer: Explainer) -> None:
    model: Any = explainer.model
    pixels = explainer.input_of([explainer.prepare(picture(seed=3))])
    expected = model.encode_image(pixels, normalize=True)
    sources: list[ImageSource | PreparedImage] = [
        picture(seed=3),
        encoded(picture(seed=3)),
        explainer.prepare(picture(seed=3)),
    ]
    found = vectors_of(explainer, *map(ImageTarget, sources))
    assert torch.allclose(found, expected.expand(3, -1), atol=1e-12)


def test_a_picture_looks_like_itself(explainer: Explainer) -> None:
    found = explained(explainer, ImageTarget(picture()), ImageTarget(picture(seed=8)))
    assert found.similarities[0] == pytest.approx(1, abs=1e-6)
    assert found.similarities[1] < 0.999


def test_a_class_is_the_unit_row_of_the_classifier(explainer: Explainer) -> None:
    assert explainer.classifier is not None
    expected = F.normalize(explainer.classifier.weight, dim=-1)
    found = vectors_of(explainer, ClassTarget(2), ClassTarget(label="tabby"))
    assert torch.allclose(found, expected[[2, 1]], atol=1e-12)


def test_a_contrast_is_the_normalised_difference(explainer: Explainer) -> None:
    cat, dog = explainer.text.encode(["a cat", "a dog"])
    found = vectors_of(
        explainer,
        ContrastTarget(text("a cat"), text("a dog")),
        ContrastTarget(ClassTarget(0), EmbeddingTarget(embedding())),
    )
    assert torch.allclose(found[0], F.normalize(cat - dog, dim=0), atol=1e-12)
    assert explainer.classifier is not None
    row, other = explainer.classifier.vectors([0])[0], F.normalize(embedding(), dim=0)
    assert torch.allclose(found[1], F.normalize(row - other, dim=0), atol=1e-12)


@pytest.mark.parametrize("atoms", [None, 1, 2, 9], ids=str)
def test_a_residual_is_orthogonal_to_the_distractors_it_took_away(
    explainer: Explainer, atoms: int | None
) -> None:
    words = ["a dog", "a sofa", "grass"]
    distractors = tuple(map(text, words))
    cat, *units = explainer.text.encode(["a cat", *words])
    (found,) = vectors_of(explainer, ResidualTarget(text("a cat"), distractors, atoms))
    products = (torch.stack(units) @ found).abs()
    assert int((products < 1e-10).sum()) == min(atoms or 3, 3)
    assert 0 < found @ cat < 1
    if atoms in (None, 9):
        basis = torch.stack(units).T
        left = cat - basis @ torch.linalg.lstsq(basis, cat).solution
        assert torch.allclose(found, F.normalize(left, dim=0), atol=1e-10)


def test_combinations_take_every_simple_kind(explainer: Explainer) -> None:
    parts = (text("a", "b"), EmbeddingTarget(embedding()), ImageTarget(picture()), ClassTarget(1))
    targets: list[Target] = [
        ResidualTarget(text("a cat"), parts),
        *(ContrastTarget(text("a cat"), part) for part in parts),
    ]
    (resolved,) = explainer.resolver.resolve(targets, 1)
    assert resolved.kinds == ("residual",) + ("contrast",) * 4
    assert torch.allclose(resolved.vectors.norm(dim=1), torch.ones(5).double(), atol=1e-12)


def test_maps_are_those_of_the_vectors_worked_out_by_hand(explainer: Explainer) -> None:
    cat, tabby, dog = explainer.text.encode(["a cat", "a tabby", "a dog"])
    by_hand = torch.stack(
        [
            F.normalize((cat + tabby) / 2, dim=0),
            F.normalize(cat - dog, dim=0),
            F.normalize(cat - (cat @ dog) * dog, dim=0),
            F.normalize(embedding(), dim=0),
            explainer.embed_images([picture(seed=5)])[0],
        ]
    )
    trace = explainer.trace([picture()])
    (expected,) = explainer.attribute(trace, by_hand)
    targets: list[Target] = [
        text("a cat", "a tabby"),
        ContrastTarget(text("a cat"), text("a dog")),
        ResidualTarget(text("a cat"), (text("a dog"),)),
        EmbeddingTarget(4 * embedding()),
        ImageTarget(picture(seed=5)),
    ]
    (found,) = explainer.attribute(trace, targets)
    scale = np.abs(expected.maps).max()
    np.testing.assert_allclose(found.maps / scale, expected.maps / scale, atol=1e-10)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)


def test_texts_and_classes_have_probabilities_and_nothing_else_has(explainer: Explainer) -> None:
    found = explained(
        explainer,
        "a cat",
        ClassTarget(3),
        EmbeddingTarget(embedding()),
        text("a dog", "a hound"),
        ImageTarget(picture(seed=1)),
        ContrastTarget(text("a cat"), text("a dog")),
        ResidualTarget(text("a cat"), (text("a dog"),)),
        ClassTarget(label="tench"),
    )
    assert np.isnan(found.probabilities).tolist() == [0, 0, 1, 0, 1, 1, 1, 0]
    alone = explained(explainer, "a cat", text("a dog", "a hound"))
    np.testing.assert_allclose(found.probabilities[[0, 3]], alone.probabilities, atol=1e-6)
    assert alone.probabilities.sum() == pytest.approx(1)

    model, classifier = explainer.model, explainer.classifier
    assert classifier is not None
    pixels = explainer.input_of([explainer.prepare(picture())])
    features = model.encode_image(pixels)  # type: ignore[operator]
    logits = features @ classifier.weight.T + classifier.bias
    expected = logits.softmax(-1)[0, [3, 0]].numpy()
    np.testing.assert_allclose(found.probabilities[[1, 7]], expected, atol=1e-6)


def test_each_picture_may_have_targets_of_its_own(explainer: Explainer) -> None:
    targets: list[list[Target | str]] = [
        ["a cat", ClassTarget(1)],
        [EmbeddingTarget(embedding())],
        [ContrastTarget(text("a cat"), text("a dog")), "red"],
    ]
    pictures = [picture(seed=seed) for seed in range(3)]
    together = explainer.explain(pictures, targets)
    for image, asked, found in zip(pictures, targets, together, strict=True):
        (alone,) = explainer.explain([image], asked)
        np.testing.assert_allclose(found.maps, alone.maps, atol=1e-12)
        np.testing.assert_allclose(found.similarities, alone.similarities, atol=1e-6)
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-6)


def test_all_texts_are_encoded_in_one_call_and_all_pictures_in_one_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explainer = seeded_explainer()
    texts: list[list[str]] = []
    pictures: list[int] = []
    encode, embed = explainer.text.encode, explainer.tower.embed

    def encode_counted(words: list[str], _: Any, *, cache: bool) -> Tensor:
        texts.append(words)
        return encode(words, cache=cache)

    def embed_counted(pixels: Tensor) -> Tensor:
        pictures.append(len(pixels))
        return embed(pixels)

    monkeypatch.setattr(explainer.text, "encode", encode_counted)
    monkeypatch.setattr(explainer.tower, "embed", embed_counted)
    twice = encoded(picture(seed=2))
    targets: list[Target | str] = [
        "a cat",
        text("a cat", "a tabby"),
        ContrastTarget(text("a cat"), text("a dog")),
        ResidualTarget(ImageTarget(twice, b"2"), (text("a dog"),)),
        ImageTarget(encoded(picture(seed=2)), b"2"),
        ContrastTarget(ImageTarget(picture(seed=3)), ImageTarget(twice, b"2")),
    ]
    explainer.explain([picture()], targets, negatives="siglip")
    assert texts == [["a cat", "a tabby", "a dog", "a photo of a"]]
    assert pictures == [2, 1]


def test_target_pictures_of_any_shape_are_embedded_in_order(explainer: Explainer) -> None:
    sizes = [(64, 64), (200, 70), (64, 64), (70, 200)]
    prepared = [explainer.prepare(picture(*size, i), fit="native") for i, size in enumerate(sizes)]
    together = explainer.embed_images(prepared)
    for image, found in zip(prepared, together, strict=True):
        assert torch.allclose(explainer.embed_images([image])[0], found, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_resolves_to_nearly_the_same_vectors(dtype: torch.dtype) -> None:
    targets: list[Target] = [
        text("a cat", "a tabby"),
        ContrastTarget(text("a cat"), text("two dogs on a sofa")),
        ResidualTarget(text("a cat"), (text("two dogs on a sofa"), EmbeddingTarget(embedding(1)))),
        EmbeddingTarget(embedding().tolist()),
    ]
    single = vectors_of(seeded_explainer(), *targets)
    half = vectors_of(seeded_explainer(dtype=dtype), *targets)
    assert half.dtype == dtype
    assert ((single * half.float()).sum(-1) > 0.99).all()


@pytest.mark.parametrize(
    ("target", "said", "field"),
    [
        (text("a cat", " "), "empty", "targets.1"),
        (text("word " * 50), "shorten", "targets.1"),
        (EmbeddingTarget([1.0] * 7), "7 values.* have 24", "targets.1.embedding"),
        (EmbeddingTarget(torch.ones(1, EMBEDDING_SIZE)), "have 24", "targets.1.embedding"),
        (EmbeddingTarget([0.0] * EMBEDDING_SIZE), "zeros", "targets.1.embedding"),
        (EmbeddingTarget([float("nan")] * EMBEDDING_SIZE), "finite", "targets.1.embedding"),
        (EmbeddingTarget([float("inf")] * EMBEDDING_SIZE), "finite", "targets.1.embedding"),
        (ClassTarget(CLASSES), "4", "targets.1.index"),
        (ClassTarget(-1), "4", "targets.1.index"),
        (ClassTarget(label="a unicorn"), "unicorn", "targets.1.label"),
        (ContrastTarget(text("a cat"), text("a cat")), "same", "targets.1"),
        (ContrastTarget(text("a cat"), text("")), "empty", "targets.1.against"),
        (
            ContrastTarget(EmbeddingTarget([1.0]), text("a cat")),
            "1 values",
            "targets.1.target.embedding",
        ),
        (ResidualTarget(text("a cat"), (text("red"), text("a cat"))), "fully", "targets.1"),
        (
            ResidualTarget(text("a cat", "a dog"), (text("a cat"), text("a dog"))),
            "fully",
            "targets.1",
        ),
        (
            ResidualTarget(text("a cat"), (text("red"), ClassTarget(99))),
            "99",
            "targets.1.distractors.1.index",
        ),
    ],
    ids=lambda value: repr(value)[:60],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_targets_that_mean_nothing_are_refused_by_their_place(
    explainer: Explainer, target: Target, said: str, field: str, dtype: torch.dtype
) -> None:
    asked = seeded_explainer(dtype=dtype)
    asked.classifier = explainer.classifier
    with pytest.raises(InvalidTargetError, match=said) as refusal:
        asked.explain([picture()], [text("a cat"), target])
    assert refusal.value.field == field


def test_embeddings_of_opposite_direction_do_not_average(explainer: Explainer) -> None:
    vector = embedding()
    with pytest.raises(InvalidTargetError):
        vectors_of(
            explainer,
            ResidualTarget(EmbeddingTarget(vector), (EmbeddingTarget(-vector),)),
        )
    found = vectors_of(explainer, ContrastTarget(EmbeddingTarget(vector), EmbeddingTarget(-vector)))
    assert torch.allclose(found[0], F.normalize(vector, dim=0), atol=1e-12)


def test_a_model_without_a_classifier_has_no_classes() -> None:
    with pytest.raises(InvalidTargetError, match="no classifier") as refusal:
        seeded_explainer().explain([picture()], [ClassTarget(1)])
    assert refusal.value.field == "targets.0"


def test_a_target_picture_that_is_none_is_refused(explainer: Explainer) -> None:
    with pytest.raises(ImageDecodeError):
        explainer.explain([picture()], [ImageTarget(b"no picture")])


@pytest.mark.parametrize(
    "make",
    [
        lambda: TextTarget(texts=()),
        lambda: TextTarget(texts="a cat"),
        lambda: TextTarget(("a cat",)),  # type: ignore[arg-type]
        lambda: TextTarget("a cat", ["a dog"]),
        lambda: TextTarget(),
        lambda: ClassTarget(),
        lambda: ClassTarget(1, "tabby"),
        lambda: ClassTarget("tabby"),  # type: ignore[arg-type]
        lambda: ResidualTarget(text("a cat"), ()),
        lambda: ResidualTarget(text("a cat"), (text("a dog"),), atoms=0),
        lambda: ContrastTarget(ContrastTarget(text("a"), text("b")), text("c")),  # type: ignore[arg-type]
        lambda: ResidualTarget("a cat", (text("a dog"),)),  # type: ignore[arg-type]
        lambda: Question.of([3]),  # type: ignore[list-item]
    ],
)
def test_targets_that_cannot_be_are_refused_where_they_are_made(make: Any) -> None:
    with pytest.raises(InvalidTargetError):
        make()
