"""`POST /explain`."""

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from service.explaining import ExplainCommand, ExplainingService, ExplainOutcome
from service.intake import image_bytes
from service.problems import (
    LimitExceededError,
    MalformedBodyError,
    NotAcceptableError,
    UnsupportedMediaTypeError,
)
from service.schemas import FIELD_NAMES, ExplainRequest, ExplainResponse
from service.settings import Settings

router = APIRouter(tags=["explain"])

_JSON = "application/json"
_MULTIPART = "multipart/form-data"
_PNG = "image/png"

_IMAGE_PARTS = ("image", "images")
_LONGEST_TEXT_PART = 1_000_000
_MOST_VALUES = 100_000
_BEFORE_VALUES = (b",", b"[", b"{")

_MULTIPART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["image", "prompts"],
    "additionalProperties": False,
    "properties": {
        "image": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": "The picture as a file; repeat the field for several pictures.",
        },
        "prompts": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string"},
            "description": "What to look for; repeat the field for several prompts.",
            "example": ["a cat", "a dog"],
        },
        "model": {
            "type": "string",
            "description": "Id of a model from `/models`.",
            "example": "starter",
        },
        "options": {
            "type": "string",
            "contentMediaType": _JSON,
            "description": "`ExplainOptions` as JSON.",
            "example": '{"layers": 2}',
        },
        "output": {
            "type": "string",
            "contentMediaType": _JSON,
            "description": "`OutputOptions` as JSON.",
            "example": '{"heatmap": "none"}',
        },
    },
}

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        _JSON: {"schema": {"$ref": "#/components/schemas/ExplainRequest"}},
        _MULTIPART: {
            "schema": _MULTIPART_SCHEMA,
            "encoding": {"image": {"contentType": "image/*, application/octet-stream"}},
        },
    },
}


_Image = TypeVar("_Image")


@dataclass(frozen=True, slots=True)
class _Intake:
    body: ExplainRequest
    images: list[bytes]
    image_fields: list[str]


@router.post(
    "/explain",
    summary="Explain pictures",
    response_model=ExplainResponse,
    responses={
        200: {
            "description": "The explanations; with `Accept: image/png`, one overlay.",
            "content": {_PNG: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    openapi_extra={
        "requestBody": REQUEST_BODY,
        "parameters": [
            {
                "name": "X-Request-Timeout-Ms",
                "in": "header",
                "required": False,
                "description": "Deadline of this request in milliseconds, no longer than the "
                "server's own.",
                "schema": {"type": "integer", "minimum": 1, "example": 5000},
            }
        ],
    },
)
async def explain(request: Request) -> Response:
    """Shows where a model looked in each picture for each prompt.

    Send JSON with base64 or data URLs, or `multipart/form-data` with files. With
    `Accept: image/png`, one picture and one prompt are answered by the overlay itself.
    """
    received = time.monotonic()
    settings: Settings = request.app.state.settings
    wants_png = _wants_png(request)
    timeout = _timeout(request, settings)
    intake = await _read(request, settings)
    body = intake.body
    if wants_png:
        if len(intake.images) != 1 or len(body.prompts) != 1:
            raise NotAcceptableError(
                "Accept: image/png is for one picture and one prompt, not "
                f"{len(intake.images)} and {len(body.prompts)}: ask for application/json.",
                field="prompts" if len(intake.images) == 1 else "images",
            )
        only_overlay = {"heatmap": "none", "overlay": True, "regions_threshold": None}
        body = body.model_copy(update={"output": body.output.model_copy(update=only_overlay)})
    command = ExplainCommand(
        images=intake.images,
        image_fields=intake.image_fields,
        prompts=body.prompts,
        model=body.model,
        options=body.options,
        output=body.output,
        received=received,
        deadline=received + timeout,
    )
    outcome = await _unless_client_leaves(request, request.app.state.explaining, command)
    request.state.model = outcome.model
    if wants_png:
        return Response(
            base64.b64decode(outcome.images[0].targets[0].overlay or ""), media_type=_PNG
        )
    content = await asyncio.to_thread(_serialize, request.state.request_id, body, outcome)
    return Response(content, media_type=_JSON)


def _serialize(request_id: str, body: ExplainRequest, outcome: ExplainOutcome) -> bytes:
    response = ExplainResponse(
        request_id=request_id,
        model=outcome.model,
        layers=list(outcome.layers),
        score=body.options.score,
        cached_prompts=outcome.cached_prompts,
        images=outcome.images,
        timings=outcome.timings,
    )
    return response.model_dump_json().encode()


def _wants_png(request: Request) -> bool:
    accepted = [
        part.split(";")[0].strip().lower()
        for part in request.headers.get("accept", "*/*").split(",")
    ]
    if {_JSON, "application/*", "*/*", ""} & set(accepted):
        return accepted[0] == _PNG
    if {_PNG, "image/*"} & set(accepted):
        return True
    raise NotAcceptableError(
        f"Answers are {_JSON} or {_PNG}, not {request.headers['accept']!r}.", field="Accept"
    )


def _timeout(request: Request, settings: Settings) -> float:
    header = request.headers.get("x-request-timeout-ms")
    if header is None:
        return settings.request_timeout_seconds
    if not (header.isascii() and header.isdigit() and int(header[:12]) > 0):
        message = f"Input should be a positive whole number, not {header[:32]!r}"
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("X-Request-Timeout-Ms",), "msg": message}]
        )
    return min(int(header[:12]) / 1000, settings.request_timeout_seconds)


async def _read(request: Request, settings: Settings) -> _Intake:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == _JSON:
        raw = await request.body()
        return await asyncio.to_thread(_from_json, raw, settings)
    if content_type == _MULTIPART:
        return await _from_multipart(request, settings)
    raise UnsupportedMediaTypeError(
        f"Send {_JSON} or {_MULTIPART}, not {content_type or 'a body without a content type'!r}.",
        field="Content-Type",
    )


def _from_json(raw: bytes, settings: Settings) -> _Intake:
    body = _validated(raw)
    if (body.image is None) == (body.images is None):
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("image",), "msg": "Give either image or images."}]
        )
    given = {"image": body.image} if body.image is not None else _numbered(body.images or [])
    _check_image_count(len(given), settings)
    images = [image_bytes(image, field) for field, image in given.items()]
    return _Intake(body, images, list(given))


async def _from_multipart(request: Request, settings: Settings) -> _Intake:
    _, parameters = parse_options_header(request.headers["content-type"])
    # Other codecs are a way to make the server work hard, or fail, on a few bytes.
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise UnsupportedMediaTypeError(
            "The text fields must be in UTF-8: leave out the charset.", field="Content-Type"
        )
    try:
        form = await request.form(
            max_files=settings.max_images,
            max_fields=settings.max_prompts + 8,
            max_part_size=_LONGEST_TEXT_PART,
        )
    except HTTPException as error:
        raise MalformedBodyError(
            f"The multipart body cannot be read: {error.detail}", field="body"
        ) from error
    try:
        images, texts = await _parts(form)
    finally:
        await form.close()
    body = await asyncio.to_thread(_from_texts, texts)
    if not images:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("image",), "msg": "Send the picture as a file."}]
        )
    fields = ["image"] if len(images) == 1 else list(_numbered(images))
    return _Intake(body, images, fields)


async def _parts(form: FormData) -> tuple[list[bytes], list[tuple[str, str]]]:
    images: list[bytes] = []
    texts: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, str):
            if name in _IMAGE_PARTS:
                raise MalformedBodyError(
                    "The picture must be sent as a file: curl -F image=@picture.jpg", field=name
                )
            texts.append((name, value))
        elif name in _IMAGE_PARTS:
            images.append(await value.read())
        else:
            raise MalformedBodyError(
                f"The field {name!r} is not for files: pictures go into 'image'.", field=name
            )
    return images, texts


def _from_texts(texts: list[tuple[str, str]]) -> ExplainRequest:
    fields: dict[str, object] = {}
    prompts: list[str] = []
    for name, value in texts:
        if name in ("prompts", "prompt"):
            prompts.append(value)
        elif name in ("options", "output"):
            try:
                fields[name] = from_json(value)
            except ValueError as error:
                raise MalformedBodyError(f"{name} is not JSON: {error}", field=name) from error
        else:
            fields[name] = value
    if prompts:
        fields["prompts"] = prompts
    return _validated(to_json(fields, inf_nan_mode="constants"))


def _numbered(images: Sequence[_Image]) -> dict[str, _Image]:
    return {f"images.{position}": image for position, image in enumerate(images)}


def _validated(raw: bytes) -> ExplainRequest:
    # Pictures and prompts are long strings. A body of many short values is none, and each of its
    # mistakes would cost a hundred times its size to report.
    if sum(map(raw.count, _BEFORE_VALUES)) > _MOST_VALUES:
        raise LimitExceededError(f"The body has more than {_MOST_VALUES} values.", field="body")
    try:
        return ExplainRequest.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {**each, "loc": _as_sent(each["loc"], each["type"])}
                for each in error.errors(include_input=False)
            ]
        ) from error


def _as_sent(location: tuple[int | str, ...], kind: str) -> tuple[int | str, ...]:
    """The place of a mistake in the body, without the branches of unions that were tried."""
    unknown = location[-1:] if kind == "extra_forbidden" else ()
    return tuple(
        part for part in location if isinstance(part, int) or part in FIELD_NAMES or part in unknown
    )


def _check_image_count(count: int, settings: Settings) -> None:
    if count > settings.max_images:
        raise LimitExceededError(
            f"images: {count} images, but this server allows {settings.max_images}.",
            field="images",
        )


async def _unless_client_leaves(
    request: Request, explaining: ExplainingService, command: ExplainCommand
) -> ExplainOutcome:
    """Carries out the command; stops waiting, and gives up what is queued, if the client leaves."""
    work = asyncio.create_task(explaining.explain(command))
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientLeftError
        return work.result()
    finally:
        for task in (work, leaving):
            task.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class ClientLeftError(Exception):
    """The client closed the connection before it was answered."""
