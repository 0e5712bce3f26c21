"""Targets between the contract and the engine: read from a request, named in an answer."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from legrad_engine import targets as engine
from legrad_engine.errors import InvalidTargetError
from legrad_engine.images.decoding import PreparedImage
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.negatives import SIGLIP, NegativePreset, Negatives
from legrad_engine.targets.questions import Question
from service.pool.trace_cache import digest_of
from service.schemas import targets as contract
from service.schemas.base import ImageField

_FLOAT_BYTES = 4
_LONGEST_LABEL = 200


@dataclass(frozen=True, slots=True)
class TargetName:
    """A target as an answer names it.

    Attributes:
        label: short, for a person.
        prompt: the text, where the target is one text.
    """

    label: str
    prompt: str | None


def read_question(
    prompts: Sequence[str],
    targets: Sequence[contract.Target],
    negatives: contract.NegativePrompts | NegativePreset | None,
    read_image: Callable[[ImageField, str], bytes],
) -> Question:
    """What a request asks: its prompts, then its targets. Pictures stay encoded.

    Args:
        prompts: texts.
        targets: other targets.
        negatives: what no map must show.
        read_image: makes a picture field, of the given name, into the encoded picture.

    Raises:
        InvalidTargetError: an embedding is not base64 of float32.
        LegradError: what ``read_image`` raises.
    """
    fields = [f"targets.{position}" for position in range(len(targets))]
    read = [_read(target, field, read_image) for target, field in zip(targets, fields, strict=True)]
    return Question(
        (*(engine.TextTarget((prompt,)) for prompt in prompts), *read),
        _read_negatives(negatives),
        tuple(["prompts"] * len(prompts) + fields),
    )


def encoded_images(question: Question) -> dict[bytes, tuple[bytes, str]]:
    """The distinct target pictures by digest, still encoded, with the field that gives each."""
    found: dict[bytes, tuple[bytes, str]] = {}
    for part, field in question.parts:
        if isinstance(part, engine.ImageTarget) and isinstance(part.image, bytes):
            digest = part.digest or digest_of(part.image)
            found.setdefault(digest, (part.image, f"{field}.image"))
    return found


def with_prepared(question: Question, prepared: dict[bytes, PreparedImage]) -> Question:
    """The question with its pictures prepared, by digest."""

    def simple(part: engine.SimpleTarget) -> engine.SimpleTarget:
        if isinstance(part, engine.ImageTarget) and part.digest is not None:
            return engine.ImageTarget(prepared[part.digest], part.digest)
        return part

    def any_kind(target: engine.Target) -> engine.Target:
        match target:
            case engine.ContrastTarget(wanted, against):
                return engine.ContrastTarget(simple(wanted), simple(against))
            case engine.ResidualTarget(wanted, distractors, atoms):
                return engine.ResidualTarget(simple(wanted), tuple(map(simple, distractors)), atoms)
            case _:
                return simple(target)

    if not prepared:
        return question
    return Question(tuple(map(any_kind, question.targets)), question.negatives, question.fields)


def name_target(target: engine.Target, classifier: Classifier | None) -> TargetName:
    """How an answer names a target."""
    prompt = None
    if isinstance(target, engine.TextTarget) and len(target.texts) == 1:
        (prompt,) = target.texts
    label = _label(target, classifier)
    if len(label) > _LONGEST_LABEL:
        label = f"{label[: _LONGEST_LABEL - 1]}…"
    return TargetName(label, prompt)


def _label(target: engine.Target, classifier: Classifier | None) -> str:
    match target:
        case engine.TextTarget(texts):
            return ", ".join(texts)
        case engine.EmbeddingTarget():
            return "embedding"
        case engine.ImageTarget():
            return "image"
        case engine.ClassTarget(class_):
            return _class_label(class_, classifier)
        case engine.ContrastTarget(wanted, against):
            return f"{_quoted(wanted, classifier)} against {_quoted(against, classifier)}"
        case engine.ResidualTarget(wanted, distractors):
            without = ", ".join(_quoted(each, classifier) for each in distractors)
            return f"{_quoted(wanted, classifier)} without {without}"


def _quoted(target: engine.SimpleTarget, classifier: Classifier | None) -> str:
    if isinstance(target, engine.TextTarget):
        return ", ".join(f'"{text}"' for text in target.texts)
    return _label(target, classifier)


def _class_label(class_: int | str, classifier: Classifier | None) -> str:
    if classifier is None:
        return f"class {class_}"
    index = classifier.index_of(class_)
    return f"class {index}" + (f": {classifier.labels[index]}" if classifier.labels else "")


def _read(
    target: contract.Target, field: str, read_image: Callable[[ImageField, str], bytes]
) -> engine.Target:
    match target:
        case contract.ContrastTarget():
            return engine.ContrastTarget(
                _read_simple(target.target, f"{field}.target", read_image),
                _read_simple(target.against, f"{field}.against", read_image),
            )
        case contract.ResidualTarget():
            return engine.ResidualTarget(
                _read_simple(target.target, f"{field}.target", read_image),
                tuple(
                    _read_simple(each, f"{field}.distractors.{position}", read_image)
                    for position, each in enumerate(target.distractors)
                ),
                target.atoms,
            )
        case _:
            return _read_simple(target, field, read_image)


def _read_simple(
    target: contract.SimpleTarget, field: str, read_image: Callable[[ImageField, str], bytes]
) -> engine.SimpleTarget:
    match target:
        case contract.TextTarget():
            return engine.TextTarget(tuple(target.texts or (target.text or "",)))
        case contract.EmbeddingTarget():
            return engine.EmbeddingTarget(_read_embedding(target, f"{field}.embedding"))
        case contract.ImageTarget():
            encoded = read_image(target.image, f"{field}.image")
            return engine.ImageTarget(encoded, digest_of(encoded))
        case contract.ClassTarget():
            return engine.ClassTarget(target.label or "" if target.index is None else target.index)


def _read_embedding(target: contract.EmbeddingTarget, field: str) -> NDArray[np.float64]:
    given = target.embedding
    if not isinstance(given, contract.EncodedEmbedding):
        return np.array(given, np.float64)
    try:
        data = base64.b64decode(given.b64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidTargetError(
            f"The embedding is not valid base64 ({error}).", field=field
        ) from error
    if len(data) % _FLOAT_BYTES:
        raise InvalidTargetError(
            f"The embedding has {len(data)} bytes, which is no whole number of float32 values.",
            field=field,
        )
    return np.frombuffer(data, "<f4").astype(np.float64)


def _read_negatives(
    negatives: contract.NegativePrompts | NegativePreset | None,
) -> Negatives | None:
    if negatives is None:
        return None
    if isinstance(negatives, str):
        return SIGLIP
    return Negatives(
        tuple(negatives.prompts), negatives.mode, negatives.threshold, negatives.weight
    )
