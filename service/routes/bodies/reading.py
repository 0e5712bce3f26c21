"""From the body that a caller sent, JSON or multipart, to a checked request and its pictures."""

import base64
import binascii
import contextlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json, to_json

from legrad_engine.errors import ImageDecodeError
from legrad_engine.targets.questions import Question
from service.errors import (
    LimitExceededError,
    MalformedBodyError,
    ServiceError,
    UnsupportedMediaTypeError,
)
from service.explaining.offloading import offload_if_large
from service.explaining.targets import read_question
from service.routes.bodies.multipart import Limits, read_form
from service.routes.bodies.validation import invalid, validated
from service.schemas.base import AnyImage, EncodedImage, ImageField, UrlImage
from service.schemas.requests import ExplainBody, ExplainRequest
from service.settings import Settings
from service.settings.url_policy import ImageUrl

JSON = "application/json"
MULTIPART = "multipart/form-data"

_IMAGE_PARTS = ("image", "images")
_LONGEST_TEXT_PART = 1_000_000
_WHITESPACE = string.whitespace.encode("ascii")

_Image = TypeVar("_Image")
_Body = TypeVar("_Body", bound=ExplainBody)


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
            f"The picture is not valid base64 ({error}): send the file's content in base64, not "
            "its name, or the file itself as multipart/form-data.",
            field=field,
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
            f"Send {JSON} or {MULTIPART}, not {content_type or 'a body without a content type'!r}: "
            f"curl -F makes the latter, curl -d needs -H 'Content-Type: {JSON}' beside it.",
            field="Content-Type",
        )
    raw = await read_body(request)
    if content_type == JSON:
        return await offload_if_large(len(raw), _from_json, raw, settings)
    return await offload_if_large(
        len(raw), _from_multipart, raw, request.headers["content-type"], settings
    )


async def read_body(request: Request) -> bytes:
    """The body, as it was sent.

    Raises:
        UnsupportedMediaTypeError: it is compressed.
        BodyTooLargeError: it is longer than the limit.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        # A few bytes could be made to fill the memory; pictures are compressed already.
        raise UnsupportedMediaTypeError(
            f"Send the body as it is, not compressed as {encoding!r}.", field="Content-Encoding"
        )
    return await request.body()


def _from_json(raw: bytes, settings: Settings) -> Intake:
    body = validated(raw, ExplainRequest)
    check_asked(body)
    if (body.image is None) == (body.images is None):
        raise invalid("Give either image or images.", "image")
    given = {"image": body.image} if body.image is not None else _numbered(body.images or [])
    check_image_count(len(given), settings)
    images = [read_image(image, field, settings) for field, image in given.items()]
    return Intake(body, images, list(given), question_of(body))


def read_image(image: AnyImage, field: str, settings: Settings) -> bytes | ImageUrl:
    """The encoded picture of one request field, or the address that it is to be fetched from.

    Raises:
        ImageDecodeError: not base64, or a data URL of another encoding.
        ServiceError: the address is not allowed.
    """
    if not isinstance(image, UrlImage):
        return image_bytes(image, field)
    try:
        return settings.url_policy.rules.check(image.url)
    except ServiceError as error:
        error.field = f"{field}.url"
        raise


def _from_multipart(raw: bytes, content_type: str, settings: Settings) -> Intake:
    pictures, texts = form_parts(raw, content_type, settings, _IMAGE_PARTS)
    body, question = from_texts(texts, ExplainRequest)
    if not pictures:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("image",), "msg": "Send the picture as a file."}]
        )
    images: list[bytes | ImageUrl] = [*pictures]
    fields = ["image"] if len(images) == 1 else list(_numbered(images))
    return Intake(body, images, fields, question)


def form_parts(
    raw: bytes, content_type: str, settings: Settings, image_parts: Sequence[str]
) -> tuple[list[bytes], list[tuple[str, str]]]:
    """The pictures and the text fields of a multipart body.

    Args:
        raw: the body.
        content_type: its ``Content-Type``.
        settings: the limits.
        image_parts: names of the parts that are pictures; files of other names are refused.

    Raises:
        MalformedBodyError: the body cannot be read, or a part is of the wrong kind.
        ServiceError: see :func:`service.routes.bodies.multipart.read_form`.
    """
    limits = Limits(
        # One more than the limit, so that the limit's own error answers it.
        files=settings.max_images + 1,
        texts=settings.max_prompts + 8,
        text_bytes=_LONGEST_TEXT_PART,
    )
    form = read_form(raw, content_type, limits)
    for name, _ in form.texts:
        if name in image_parts:
            raise MalformedBodyError(
                f"The picture must be sent as a file: curl -F {image_parts[0]}=@picture.jpg",
                field=name,
            )
    for name, _ in form.files:
        if name not in image_parts:
            raise MalformedBodyError(
                f"The field {name!r} is not for files: pictures go into {image_parts[0]!r}.",
                field=name,
            )
    return [content for _, content in form.files], form.texts


def from_texts(texts: Sequence[tuple[str, str]], model: type[_Body]) -> tuple[_Body, Question]:
    """The body that text fields make up, a prompt for each ``prompts`` and the rest as JSON.

    Raises:
        MalformedBodyError: a field is not JSON, or is there more than once.
        RequestValidationError: the fields do not fit the contract.
        LegradError: a target picture or an embedding is not base64.
    """
    fields: dict[str, object] = {}
    prompts: list[str] = []
    for name, value in texts:
        if name in ("prompts", "prompt"):
            prompts.append(_one_prompt(name, value))
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
    body = validated(to_json(fields, inf_nan_mode="constants"), model)
    check_asked(body)
    return body, question_of(body)


def _one_prompt(name: str, value: str) -> str:
    """A prompt, not a list of them: as one it would be explained without a complaint.

    Raises:
        MalformedBodyError: it is a list, as JSON bodies have it.
    """
    if value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            if isinstance(from_json(value), list):
                raise MalformedBodyError(
                    f"{name} is a list: send a field for each prompt, "
                    "curl -F prompts='a cat' -F prompts='a pizza'.",
                    field=name,
                )
    return value


def question_of(body: ExplainBody) -> Question:
    """What a checked body asks of each picture.

    Raises:
        LegradError: a target picture or an embedding is not base64.
    """
    return read_question(
        body.prompts or (), body.targets or (), body.options.negatives, image_bytes
    )


def check_asked(body: ExplainBody, *location: str | int) -> None:
    """Refuses a body that asks for nothing.

    Raises:
        RequestValidationError: it has neither prompts nor targets.
    """
    if body.prompts is None and body.targets is None:
        raise RequestValidationError(
            [
                {
                    "type": "missing",
                    "loc": (*location, "prompts"),
                    "msg": "Give prompts, targets, or both.",
                }
            ]
        )


def check_image_count(count: int, settings: Settings) -> None:
    """Refuses more pictures than a request may have.

    Raises:
        LimitExceededError: there are too many.
    """
    if count > settings.max_images:
        raise LimitExceededError(
            f"images: {count} images, but this server allows {settings.max_images}.",
            field="images",
        )


def _numbered(images: Sequence[_Image]) -> dict[str, _Image]:
    return {f"images.{position}": image for position, image in enumerate(images)}
