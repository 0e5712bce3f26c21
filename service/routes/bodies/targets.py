"""Conversion of the contract's targets to those of the engine."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from legrad_engine import targets as engine
from legrad_engine.errors import InvalidTargetError
from legrad_engine.targets.negatives import SIGLIP, NegativePreset, Negatives
from legrad_engine.targets.questions import Question
from service.pool.trace_cache import digest_of
from service.routes.bodies.base64_text import decode_base64
from service.schemas import targets as contract
from service.schemas.base import ImageField
from service.schemas.boxes import RequestedBox

_FLOAT_BYTES = 4


def read_question(
    prompts: Sequence[str],
    targets: Sequence[contract.Target],
    negatives: contract.NegativePrompts | NegativePreset | None,
    read_image: Callable[[ImageField, str], bytes],
) -> Question:
    """Read the prompts and then the targets of a request. Pictures stay encoded.

    Args:
        prompts: texts.
        targets: other targets.
        negatives: corrections of the maps.
        read_image: returns the encoded picture of a field, given its value and its name.

    Raises:
        InvalidTargetError: an embedding is not base64 of float32.
        LegradError: see ``read_image``.
    """
    fields = [f"targets.{position}" for position in range(len(targets))]
    read = [_read(target, field, read_image) for target, field in zip(targets, fields, strict=True)]
    return Question(
        (*(engine.TextTarget(prompt) for prompt in prompts), *read),
        _read_negatives(negatives),
        tuple(["prompts"] * len(prompts) + fields),
    )


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
            if target.words and field.count(".") > 1:
                raise InvalidTargetError(
                    "Words have contributions to the similarity of a text, not to that of a "
                    "combination: ask for them in a target of its own.",
                    field=f"{field}.words",
                )
            return engine.TextTarget(target.text, tuple(target.texts or ()), target.words)
        case contract.EmbeddingTarget():
            return engine.EmbeddingTarget(_read_embedding(target, f"{field}.embedding"))
        case contract.ImageTarget():
            encoded = read_image(target.image, f"{field}.image")
            return _image_target(encoded, target.box)
        case contract.ClassTarget():
            return engine.ClassTarget(target.index, target.label)


def _image_target(encoded: bytes, box: RequestedBox | None) -> engine.ImageTarget:
    digest = digest_of(encoded)
    if box is None:
        return engine.ImageTarget(encoded, digest)
    # Two regions of one picture are two target pictures.
    return engine.ImageTarget(encoded, digest + repr(box.edges).encode(), box.edges)


def _read_embedding(target: contract.EmbeddingTarget, field: str) -> NDArray[np.float64]:
    given = target.embedding
    if not isinstance(given, contract.EncodedEmbedding):
        return np.array(given, np.float64)
    try:
        data = decode_base64(given.b64)
    except ValueError as error:
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
