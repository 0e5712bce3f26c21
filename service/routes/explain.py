"""`POST /explain`."""

import asyncio
import base64
import json
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from service.explaining import ExplainCommand, ExplainingService, ExplainOutcome
from service.intake import image_bytes
from service.problems import (
    LimitExceededError,
    MalformedBodyError,
    NotAcceptableError,
    UnsupportedMediaTypeError,
)
from service.schemas import ExplainRequest, ExplainResponse
from service.settings import Settings

router = APIRouter(tags=["explain"])

_JSON = "application/json"
_MULTIPART = "multipart/form-data"
_PNG = "image/png"

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
    body, pictures = await _read(request, settings)
    if wants_png:
        if len(pictures) != 1 or len(body.prompts) != 1:
            raise NotAcceptableError(
                "Accept: image/png is for one picture and one prompt, not "
                f"{len(pictures)} and {len(body.prompts)}: ask for application/json.",
                field="prompts" if len(pictures) == 1 else "images",
            )
        only_overlay = {"heatmap": "none", "overlay": True, "regions_threshold": None}
        body = body.model_copy(update={"output": body.output.model_copy(update=only_overlay)})
    command = ExplainCommand(
        images=pictures,
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
    raise NotAcceptableError(f"Answers are {_JSON} or {_PNG}, not {request.headers['accept']!r}.")


def _timeout(request: Request, settings: Settings) -> float:
    header = request.headers.get("x-request-timeout-ms")
    if header is None:
        return settings.request_timeout_seconds
    if not (header.isascii() and header.isdigit() and int(header[:12]) > 0):
        raise LimitExceededError(
            f"X-Request-Timeout-Ms must be a positive whole number, not {header[:32]!r}.",
            field="X-Request-Timeout-Ms",
        )
    return min(int(header[:12]) / 1000, settings.request_timeout_seconds)


async def _read(request: Request, settings: Settings) -> tuple[ExplainRequest, list[bytes]]:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == _JSON:
        raw = await request.body()
        return await asyncio.to_thread(_from_json, raw, settings)
    if content_type == _MULTIPART:
        return await _from_multipart(request, settings)
    raise UnsupportedMediaTypeError(
        f"Send {_JSON} or {_MULTIPART}, not {content_type or 'a body without a content type'!r}."
    )


def _from_json(raw: bytes, settings: Settings) -> tuple[ExplainRequest, list[bytes]]:
    body = _validated(raw)
    given = body.images if body.images is not None else [body.image]
    if (body.image is None) == (body.images is None):
        raise RequestValidationError(
            [{"type": "value_error", "loc": ("image",), "msg": "Give either image or images."}]
        )
    _check_image_count(len(given), settings)
    one = body.image is not None
    return body, [
        image_bytes(image, "image" if one else f"images.{position}")
        for position, image in enumerate(given)
        if image is not None
    ]


async def _from_multipart(
    request: Request, settings: Settings
) -> tuple[ExplainRequest, list[bytes]]:
    try:
        form = await request.form(
            max_files=settings.max_images,
            max_fields=settings.max_prompts + 8,
            max_part_size=settings.max_body_bytes,
        )
    except HTTPException as error:
        raise MalformedBodyError(f"The multipart body cannot be read: {error.detail}") from error
    try:
        pictures, fields = await _parts(form)
    finally:
        await form.close()
    _check_image_count(len(pictures), settings)
    body = _validated(json.dumps(fields).encode())
    if not pictures:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("image",), "msg": "Send the picture as a file."}]
        )
    return body, pictures


async def _parts(form: FormData) -> tuple[list[bytes], dict[str, object]]:
    pictures: list[bytes] = []
    fields: dict[str, object] = {}
    prompts: list[str] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in ("image", "images"):
                raise LimitExceededError(
                    f"The file field {name!r} is unknown: pictures go into 'image'.", field=name
                )
            pictures.append(await value.read())
        elif name in ("prompts", "prompt"):
            prompts.append(value)
        elif name in ("options", "output"):
            try:
                fields[name] = json.loads(value)
            except ValueError as error:
                raise MalformedBodyError(f"{name} is not JSON: {error}", field=name) from error
        elif name in ("image", "images"):
            raise MalformedBodyError(
                "The picture must be sent as a file: curl -F image=@picture.jpg", field=name
            )
        else:
            fields[name] = value
    if prompts:
        fields["prompts"] = prompts
    return pictures, fields


def _validated(raw: bytes) -> ExplainRequest:
    try:
        return ExplainRequest.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from error


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
