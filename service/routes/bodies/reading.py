"""Reading of bodies, JSON or multipart, into the checked inputs of a command."""

from collections.abc import Callable, Sequence
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
from service.http.application import application_of
from service.http.bodies import ACCEPTED_CODINGS, coding_of
from service.http.headers import single
from service.http.problems import invalid
from service.routes.bodies.base64_text import (
    OtherDataUrlError,
    decode_base64,
    decode_data_url,
    is_data_url,
)
from service.routes.bodies.multipart import Form, FormRules, TextPart, read_form
from service.routes.bodies.parts import parse_header
from service.routes.bodies.targets import read_question
from service.routes.bodies.validation import check_unique, fitted, validated
from service.schemas.base import AnyImage, EncodedImage, ImageField, UrlImage
from service.schemas.requests import ExplainBody, ExplainRequest
from service.settings.url_policy import ImageUrl, UrlRules
from service.settings.values import RequestLimits

JSON = "application/json"
MULTIPART = "multipart/form-data"

_IMAGE_PARTS = ("image", "images")
_PROMPT_PARTS = ("prompts", "prompt")
_JSON_PARTS = ("options", "output")
_LONGEST_TEXT_PART = 1_000_000
# A boundary has at most 70 characters (RFC 2046, 5.1.1). It is parsed on the event loop.
_LONGEST_CONTENT_TYPE = 1024

_Image = TypeVar("_Image")
_Body = TypeVar("_Body", bound=ExplainBody)
_Parsed = TypeVar("_Parsed")


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
    content_type, _ = content_type_of(request)
    if content_type not in (JSON, MULTIPART):
        raise UnsupportedMediaTypeError(
            f"Send {JSON} or {MULTIPART}, not {content_type or 'a body without a content type'!r}: "
            f"curl -F makes the latter, curl -d needs -H 'Content-Type: {JSON}' beside it.",
            field="Content-Type",
            media_types=(JSON, MULTIPART),
        )
    if content_type == JSON:
        raw = await read_json(request)
        return await parse(request, len(raw), _from_json, raw, rules_of(request))
    raw = await read_body(request)
    header = request.headers["Content-Type"]
    return await parse(request, len(raw), _from_multipart, raw, header, rules_of(request))


async def parse(
    request: Request, size: int, function: Callable[..., _Parsed], *arguments: object
) -> _Parsed:
    """Run a function that parses a body, outside the event loop if the body is large.

    Args:
        request: the request.
        size: number of bytes that the function reads.
        function: the function.
        arguments: its arguments.
    """
    application = application_of(request.app)
    owner = application.access.owner(request.scope)
    return await application.body_threads.run(owner, size, function, *arguments)


def content_type_of(request: Request) -> tuple[str, str]:
    """Return the media type and the charset of a body, in lower case and empty without one.

    Raises:
        RequestValidationError: there are two content types.
        MalformedBodyError: the content type is too long.
    """
    given = single(request.headers, "Content-Type") or ""
    if len(given) > _LONGEST_CONTENT_TYPE:
        raise MalformedBodyError(
            f"Content-Type has more than {_LONGEST_CONTENT_TYPE} characters: send the media type, "
            "and for a form its boundary.",
            field="Content-Type",
        )
    kind, parameters = parse_header(given.encode("latin-1"))
    charset = parameters.get(b"charset", b"").decode("latin-1")
    return kind.decode("latin-1").strip().lower(), charset.strip().lower()


async def read_json(request: Request) -> bytes:
    """Return the raw JSON body, decompressed.

    Raises:
        UnsupportedMediaTypeError: the body is not in UTF-8, or has an unknown content coding.
        MalformedBodyError: it cannot be decompressed, or its content type is too long.
        BodyTooLargeError: the body is longer than the limit.
    """
    _, charset = content_type_of(request)
    if charset not in ("", "utf-8", "utf8", "us-ascii", "ascii"):
        raise UnsupportedMediaTypeError(
            f"JSON is in UTF-8, not in {charset!r}: leave out the charset.", field="Content-Type"
        )
    return await read_body(request)


async def read_body(request: Request) -> bytes:
    """Return the raw body, decompressed.

    Raises:
        UnsupportedMediaTypeError: the body has an unknown content coding.
        MalformedBodyError: it cannot be decompressed.
        BodyTooLargeError: the body is longer than the limit.
    """
    coding = coding_of(request.headers)
    if coding not in ACCEPTED_CODINGS:
        raise UnsupportedMediaTypeError(
            f"Send the body as it is, or compressed as gzip or deflate, not as {coding!r}.",
            field="Content-Encoding",
            codings=ACCEPTED_CODINGS,
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
    form = form_parts(raw, content_type, rules.limits, _IMAGE_PARTS)
    body, question = from_texts(form.texts, ExplainRequest)
    if not form.pictures:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("image",), "msg": "Send the picture as a file."}]
        )
    images: list[bytes | ImageUrl] = [*form.pictures]
    fields = ["image"] if len(images) == 1 else list(_numbered(images))
    return inputs_of(body, images, fields, question, body.model)


def form_parts(
    raw: bytes, content_type: str, limits: RequestLimits, image_parts: Sequence[str]
) -> Form:
    """Return the pictures and the texts of a multipart body.

    Args:
        raw: the body.
        content_type: its ``Content-Type``.
        limits: limits on the content of one request.
        image_parts: names of the parts for pictures, the preferred one first.

    Raises:
        ServiceError: see :func:`service.routes.bodies.multipart.read_form`.
    """
    rules = FormRules(
        pictures=image_parts,
        texts=(*_PROMPT_PARTS, "targets", *_JSON_PARTS, "model"),
        # One more than the limit: the later check of the limit names it in its error.
        most_pictures=limits.max_images + 1,
        most_texts=limits.max_prompts + 8,
        text_bytes=_LONGEST_TEXT_PART,
    )
    return read_form(raw, content_type, rules)


def from_texts(texts: Sequence[TextPart], model: type[_Body]) -> tuple[_Body, Question]:
    """Build a body from texts: prompts from each ``prompts``, targets from each ``targets``.

    Raises:
        MalformedBodyError: a field is not JSON, or appears more than once.
        RequestValidationError: the fields do not fit the contract.
        LegradError: a target picture or an embedding is not base64.
    """
    fields: dict[str, object] = {}
    lists: dict[str, list[object]] = {}
    for part in texts:
        name = part.name
        if name in _PROMPT_PARTS:
            lists.setdefault("prompts", []).extend(_prompts_of(part))
        elif name == "targets":
            lists.setdefault("targets", []).extend(_one_or_several(_json_of(part)))
        elif name in fields:
            raise MalformedBodyError(f"{name} appears more than once.", field=name)
        elif part.is_json or name in _JSON_PARTS:
            fields[name] = _json_of(part)
        else:
            fields[name] = part.text
    fields |= lists
    body = fitted(to_json(fields, inf_nan_mode="constants"), model)
    check_asked(body)
    return body, question_of(body)


def _json_of(part: TextPart) -> object:
    """Return the value of JSON in a form or a query.

    Raises:
        MalformedBodyError: it is not JSON, or a member appears twice.
    """
    try:
        value = from_json(part.text)
    except ValueError as error:
        raise MalformedBodyError(f"{part.name} is not JSON: {error}", field=part.name) from error
    check_unique(part.text, (part.name,))
    return value


def _prompts_of(part: TextPart) -> list[object]:
    """Return the prompts of one part: its text, or one or several as JSON if its type says so.

    Raises:
        MalformedBodyError: it is a list, but not declared as JSON, or a file of several lines;
            either would otherwise become a single prompt.
    """
    if part.is_json:
        return _one_or_several(_json_of(part))
    text = part.text.strip("\r\n") if part.is_file else part.text
    if (part.is_file and "\n" in text) or _is_json_list(text):
        raise MalformedBodyError(
            f"{part.name} is a list: send a field for each prompt, "
            "curl -F prompts='a cat' -F prompts='a pizza'.",
            field=part.name,
        )
    return [text]


def _one_or_several(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _is_json_list(text: str) -> bool:
    try:
        return text.lstrip().startswith("[") and isinstance(from_json(text), list)
    except ValueError:
        return False


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
