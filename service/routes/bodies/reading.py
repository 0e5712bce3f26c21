"""Reading of bodies, JSON or multipart, into the checked inputs of a command."""

import contextlib
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
from service.explaining.command import ExplainInputs
from service.explaining.offloading import offload
from service.http.application import application_of
from service.http.problems import invalid
from service.routes.bodies.base64_text import (
    OtherDataUrlError,
    decode_base64,
    decode_data_url,
    is_data_url,
)
from service.routes.bodies.multipart import FormLimits, read_form
from service.routes.bodies.targets import read_question
from service.routes.bodies.validation import validated
from service.schemas.base import AnyImage, EncodedImage, ImageField, UrlImage
from service.schemas.requests import ExplainBody, ExplainRequest
from service.settings.url_policy import ImageUrl, UrlRules
from service.settings.values import RequestLimits

JSON = "application/json"
MULTIPART = "multipart/form-data"

_IMAGE_PARTS = ("image", "images")
_LONGEST_TEXT_PART = 1_000_000

_Image = TypeVar("_Image")
_Body = TypeVar("_Body", bound=ExplainBody)


@dataclass(frozen=True, slots=True)
class BodyRules:
    """Limits and rules for reading a body.

    Attributes:
        limits: limits on the content of one request.
        urls: the hosts from which pictures are fetched.
    """

    limits: RequestLimits
    urls: UrlRules


def rules_of(request: Request) -> BodyRules:
    """Return the rules of the request's application."""
    application = application_of(request.app)
    return BodyRules(application.request_limits, application.url_rules)


def image_bytes(image: ImageField, field: str) -> bytes:
    """Return the encoded picture of one request field.

    Args:
        image: a data URL, plain base64, or an object with base64.
        field: name of the field, for the error.

    Raises:
        ImageDecodeError: not base64, or a data URL of another encoding.
    """
    text = image.b64 if isinstance(image, EncodedImage) else image
    text = text.lstrip()
    if text[:8].lower().startswith(("http://", "https://")):
        raise ImageDecodeError(
            'Write a URL as {"url": "https://..."}, or send the picture itself, as base64, as a '
            "data URL or as multipart/form-data.",
            field=field,
        )
    try:
        return decode_data_url(text) if is_data_url(text) else decode_base64(text)
    except OtherDataUrlError as error:
        raise ImageDecodeError(
            "The data URL is not base64: write data:image/png;base64, and then the picture.",
            field=field,
        ) from error
    except ValueError as error:
        raise ImageDecodeError(
            f"The picture is not valid base64 ({error}): send the file's content in base64, not "
            "its name, or the file itself as multipart/form-data.",
            field=field,
        ) from error


async def read_request(request: Request) -> ExplainInputs:
    """Read and check the body of an explain request.

    Raises:
        ServiceError: the body has another type, cannot be read or exceeds a limit, or the URL of a
            picture is not allowed.
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
    raw, rules = await read_body(request), rules_of(request)
    if content_type == JSON:
        return await offload(len(raw), _from_json, raw, rules)
    return await offload(len(raw), _from_multipart, raw, request.headers["content-type"], rules)


async def read_body(request: Request) -> bytes:
    """Return the raw body.

    Raises:
        UnsupportedMediaTypeError: the body is compressed.
        BodyTooLargeError: the body is longer than the limit.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        # A few bytes could decompress to gigabytes; pictures are compressed already.
        raise UnsupportedMediaTypeError(
            f"Send the body as it is, not compressed as {encoding!r}.", field="Content-Encoding"
        )
    return await request.body()


def _from_json(raw: bytes, rules: BodyRules) -> ExplainInputs:
    body = validated(raw, ExplainRequest)
    check_asked(body)
    if (body.image is None) == (body.images is None):
        raise invalid("Give either image or images.", "image")
    given = {"image": body.image} if body.image is not None else _numbered(body.images or [])
    check_image_count(len(given), rules.limits)
    images = [read_image(image, field, rules.urls) for field, image in given.items()]
    return inputs_of(body, images, list(given), question_of(body), body.model)


def read_image(image: AnyImage, field: str, urls: UrlRules) -> bytes | ImageUrl:
    """Return the encoded picture of one request field, or the URL to fetch it from.

    Raises:
        ImageDecodeError: not base64, or a data URL of another encoding.
        ServiceError: the URL is not allowed.
    """
    if not isinstance(image, UrlImage):
        return image_bytes(image, field)
    try:
        return urls.check(image.url)
    except ServiceError as error:
        error.field = f"{field}.url"
        raise


def _from_multipart(raw: bytes, content_type: str, rules: BodyRules) -> ExplainInputs:
    pictures, texts = form_parts(raw, content_type, rules.limits, _IMAGE_PARTS)
    body, question = from_texts(texts, ExplainRequest)
    if not pictures:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("image",), "msg": "Send the picture as a file."}]
        )
    images: list[bytes | ImageUrl] = [*pictures]
    fields = ["image"] if len(images) == 1 else list(_numbered(images))
    return inputs_of(body, images, fields, question, body.model)


def form_parts(
    raw: bytes, content_type: str, limits: RequestLimits, image_parts: Sequence[str]
) -> tuple[list[bytes], list[tuple[str, str]]]:
    """Return the pictures and the text fields of a multipart body.

    Args:
        raw: the body.
        content_type: its ``Content-Type``.
        limits: limits on the content of one request.
        image_parts: names of the parts for pictures; other files are refused.

    Raises:
        MalformedBodyError: the body cannot be read, or a part is of the wrong kind.
        ServiceError: see :func:`service.routes.bodies.multipart.read_form`.
    """
    form_limits = FormLimits(
        # One more than the limit: the later check of the limit names it in its error.
        files=limits.max_images + 1,
        texts=limits.max_prompts + 8,
        text_bytes=_LONGEST_TEXT_PART,
    )
    form = read_form(raw, content_type, form_limits)
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
    """Build a body from text fields: a prompt from each ``prompts``, the rest as JSON.

    Raises:
        MalformedBodyError: a field is not JSON, or appears more than once.
        RequestValidationError: the fields do not fit the contract.
        LegradError: a target picture or an embedding is not base64.
    """
    fields: dict[str, object] = {}
    prompts: list[str] = []
    for name, value in texts:
        if name in ("prompts", "prompt"):
            prompts.append(_one_prompt(name, value))
        elif name in fields:
            raise MalformedBodyError(f"{name} appears more than once.", field=name)
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
    """Return a prompt; refuse a JSON list, which would otherwise become a single prompt.

    Raises:
        MalformedBodyError: it is a JSON list.
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


def inputs_of(
    body: ExplainBody,
    images: Sequence[bytes | ImageUrl],
    fields: Sequence[str],
    question: Question,
    model: str | None,
) -> ExplainInputs:
    """Return the inputs of a command from a checked body.

    Args:
        body: the options.
        images: encoded pictures or URLs.
        fields: name of each picture's field in the request.
        question: the targets.
        model: a model id, or None for the default.
    """
    return ExplainInputs(images, fields, question, model, body.options, body.output)


def question_of(body: ExplainBody) -> Question:
    """Return the targets of a checked body, prompts first.

    Raises:
        LegradError: a target picture or an embedding is not base64.
    """
    return read_question(
        body.prompts or (), body.targets or (), body.options.negatives, image_bytes
    )


def check_asked(body: ExplainBody, *location: str | int) -> None:
    """Refuse a body without prompts and targets.

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


def check_image_count(count: int, limits: RequestLimits) -> None:
    """Refuse more pictures than one request may have.

    Raises:
        LimitExceededError: there are too many.
    """
    if count > limits.max_images:
        raise LimitExceededError(
            f"images: {count} images, but this server allows {limits.max_images}.",
            field="images",
        )


def _numbered(images: Sequence[_Image]) -> dict[str, _Image]:
    return {f"images.{position}": image for position, image in enumerate(images)}
