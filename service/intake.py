"""From the body that a caller sent, JSON or multipart, to a checked request and its pictures."""

import base64
import binascii
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from legrad_engine.errors import ImageDecodeError
from legrad_engine.targets.questions import Question
from service.fetching.rules import ImageUrl
from service.multipart import Limits, read_form
from service.off_loop import run_sized
from service.problems import (
    LimitExceededError,
    MalformedBodyError,
    ServiceError,
    UnsupportedMediaTypeError,
)
from service.schemas.base import AnyImage, EncodedImage, ImageField, UrlImage
from service.schemas.requests import FIELD_NAMES, ExplainRequest
from service.schemas.targets import LIST_UNIONS, SINGLE_UNIONS
from service.settings import Settings
from service.targets import read_question

JSON = "application/json"
MULTIPART = "multipart/form-data"

_IMAGE_PARTS = ("image", "images")
_LONGEST_TEXT_PART = 1_000_000
_MOST_VALUES = 100_000
_BEFORE_VALUES = (b",", b"[", b"{")
_WHITESPACE = string.whitespace.encode("ascii")

_Image = TypeVar("_Image")


@dataclass(frozen=True, slots=True)
class Intake:
    """A request as it was sent.

    Attributes:
        body: everything but the pictures.
        images: the encoded pictures, or the addresses of pictures that are still to be fetched.
        image_fields: what the caller calls each picture, for errors.
        question: what is asked of each picture.
    """

    body: ExplainRequest
    images: list[bytes | ImageUrl]
    image_fields: list[str]
    question: Question


def image_bytes(image: ImageField, field: str) -> bytes:
    """The encoded picture of one request field.

    Args:
        image: a data URL, plain base64, or an object that says what it holds.
        field: the field's name, for the error.

    Raises:
        ImageDecodeError: not base64, or a data URL of another encoding.
    """
    text = image.b64 if isinstance(image, EncodedImage) else image
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise ImageDecodeError(
                "The data URL is not base64: write data:image/png;base64, and then the picture.",
                field=field,
            )
    elif text.startswith(("http://", "https://")):
        raise ImageDecodeError(
            'Write an address as {"url": "https://..."}, or send the picture itself, as base64, as '
            "a data URL or as multipart/form-data.",
            field=field,
        )
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _WHITESPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageDecodeError(
            f"The picture is not valid base64 ({error}).", field=field
        ) from error


async def read_request(request: Request, settings: Settings) -> Intake:
    """Reads and checks the body of an explain request.

    Raises:
        ServiceError: the body is of another type, unreadable, or beyond a limit, or a picture's
            address is not allowed.
        RequestValidationError: the body does not fit the contract.
        ImageDecodeError: a picture is not base64.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in (JSON, MULTIPART):
        raise UnsupportedMediaTypeError(
            f"Send {JSON} or {MULTIPART}, not {content_type or 'a body without a content type'!r}.",
            field="Content-Type",
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        # A few bytes could be made to fill the memory; pictures are compressed already.
        raise UnsupportedMediaTypeError(
            f"Send the body as it is, not compressed as {encoding!r}.", field="Content-Encoding"
        )
    raw = await request.body()
    if content_type == JSON:
        return await run_sized(len(raw), _from_json, raw, settings)
    return await run_sized(
        len(raw), _from_multipart, raw, request.headers["content-type"], settings
    )


def _from_json(raw: bytes, settings: Settings) -> Intake:
    body = _validated(raw)
    if (body.image is None) == (body.images is None):
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("image",), "msg": "Give either image or images."}]
        )
    given = {"image": body.image} if body.image is not None else _numbered(body.images or [])
    _check_image_count(len(given), settings)
    images = [_read_image(image, field, settings) for field, image in given.items()]
    return Intake(body, images, list(given), _question(body))


def _read_image(image: AnyImage, field: str, settings: Settings) -> bytes | ImageUrl:
    if not isinstance(image, UrlImage):
        return image_bytes(image, field)
    try:
        return settings.url_rules.check(image.url)
    except ServiceError as error:
        error.field = f"{field}.url"
        raise


def _from_multipart(raw: bytes, content_type: str, settings: Settings) -> Intake:
    limits = Limits(
        # One more than the limit, so that the limit's own error answers it.
        files=settings.max_images + 1,
        texts=settings.max_prompts + 8,
        text_bytes=_LONGEST_TEXT_PART,
    )
    form = read_form(raw, content_type, limits)
    for name, _ in form.texts:
        if name in _IMAGE_PARTS:
            raise MalformedBodyError(
                "The picture must be sent as a file: curl -F image=@picture.jpg", field=name
            )
    for name, _ in form.files:
        if name not in _IMAGE_PARTS:
            raise MalformedBodyError(
                f"The field {name!r} is not for files: pictures go into 'image'.", field=name
            )
    body, question = _from_texts(form.texts)
    if not form.files:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("image",), "msg": "Send the picture as a file."}]
        )
    images: list[bytes | ImageUrl] = [content for _, content in form.files]
    fields = ["image"] if len(images) == 1 else list(_numbered(images))
    return Intake(body, images, fields, question)


def _from_texts(texts: list[tuple[str, str]]) -> tuple[ExplainRequest, Question]:
    fields: dict[str, object] = {}
    prompts: list[str] = []
    for name, value in texts:
        if name in ("prompts", "prompt"):
            prompts.append(value)
        elif name in fields:
            raise MalformedBodyError(f"{name} is there more than once.", field=name)
        elif name in ("targets", "options", "output"):
            try:
                fields[name] = from_json(value)
            except ValueError as error:
                raise MalformedBodyError(f"{name} is not JSON: {error}", field=name) from error
        else:
            fields[name] = value
    if prompts:
        fields["prompts"] = prompts
    body = _validated(to_json(fields, inf_nan_mode="constants"))
    return body, _question(body)


def _question(body: ExplainRequest) -> Question:
    return read_question(
        body.prompts or (), body.targets or (), body.options.negatives, image_bytes
    )


def _numbered(images: Sequence[_Image]) -> dict[str, _Image]:
    return {f"images.{position}": image for position, image in enumerate(images)}


def _validated(raw: bytes) -> ExplainRequest:
    # Pictures and prompts are long strings. A body of many short values is none, and each of its
    # mistakes would cost a hundred times its size to report.
    if sum(map(raw.count, _BEFORE_VALUES)) > _MOST_VALUES:
        raise LimitExceededError(f"The body has more than {_MOST_VALUES} values.", field="body")
    try:
        body = ExplainRequest.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {**each, "loc": _as_sent(each["loc"], each["type"])}
                for each in error.errors(include_input=False)
            ]
        ) from error
    if body.prompts is None and body.targets is None:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("prompts",), "msg": "Give prompts, targets, or both."}]
        )
    return body


def _as_sent(location: tuple[int | str, ...], kind: str) -> tuple[int | str, ...]:
    """The place of a mistake in the body, without the branches of unions that were tried."""
    last = len(location) - 1
    return tuple(
        part
        for position, part in enumerate(location)
        if isinstance(part, int)
        or (kind == "extra_forbidden" and position == last)
        or (part in FIELD_NAMES and not _is_branch(location, position))
    )


def _is_branch(location: tuple[int | str, ...], position: int) -> bool:
    """Whether a name is the kind of a target, which some fields are called as well."""
    if position == 0:
        return False
    if isinstance(location[position - 1], int):
        return location[position - 2] in LIST_UNIONS
    return location[position - 1] in SINGLE_UNIONS


def _check_image_count(count: int, settings: Settings) -> None:
    if count > settings.max_images:
        raise LimitExceededError(
            f"images: {count} images, but this server allows {settings.max_images}.",
            field="images",
        )
