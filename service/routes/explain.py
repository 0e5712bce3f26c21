"""`POST /explain`."""

import asyncio
import base64
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError

from service.commands import ExplainCommand, ExplainOutcome
from service.explaining import ExplainingService
from service.intake import JSON, MULTIPART, Intake, read_request
from service.off_loop import run_sized
from service.problems import NotAcceptableError, SlowBodyError
from service.schemas.answers import ExplainResponse
from service.settings import Settings

router = APIRouter(tags=["explain"])

_PNG = "image/png"

_MULTIPART_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
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
        "targets": {
            "type": "string",
            "contentMediaType": JSON,
            "description": "A list of `targets` as JSON; needed where there are no prompts. Target "
            "pictures in it are data URLs.",
            "example": '[{"type": "text", "text": "a cat"}]',
        },
        "model": {
            "type": "string",
            "description": "Id of a model from `/models`.",
            "example": "starter",
        },
        "options": {
            "type": "string",
            "contentMediaType": JSON,
            "description": "`ExplainOptions` as JSON.",
            "example": '{"layers": 2}',
        },
        "output": {
            "type": "string",
            "contentMediaType": JSON,
            "description": "`OutputOptions` as JSON.",
            "example": '{"heatmap": "none"}',
        },
    },
}

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/ExplainRequest"}},
        MULTIPART: {
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
    """Shows where a model looked in each picture for each prompt or other target.

    Send JSON with base64 or data URLs, or `multipart/form-data` with files. With
    `Accept: image/png`, one picture and one target are answered by the overlay itself.
    """
    received = time.monotonic()
    settings: Settings = request.app.state.settings
    explaining: ExplainingService = request.app.state.explaining
    wants_png = _wants_png(request)
    timeout = _timeout(request, settings)
    # Taken before the body: a server that is full holds no bodies either.
    with explaining.permit():
        try:
            async with asyncio.timeout(timeout):
                intake = await read_request(request, settings)
        except TimeoutError as error:
            raise SlowBodyError(
                f"The body did not arrive within {timeout:g} s; send it again."
            ) from error
        outcome = await _carry_out(request, intake, wants_png, received, received + timeout)
    request.state.model = outcome.model
    if wants_png:
        return Response(
            base64.b64decode(outcome.images[0].targets[0].overlay or ""), media_type=_PNG
        )
    content = await run_sized(
        _pictured(outcome),
        _serialize,
        request.state.request_id,
        outcome,
    )
    return Response(content, media_type=JSON)


async def _carry_out(
    request: Request, intake: Intake, wants_png: bool, received: float, deadline: float
) -> ExplainOutcome:
    body = intake.body
    if wants_png:
        targets = len(intake.question.targets)
        if len(intake.images) != 1 or targets != 1:
            asked = "prompts" if body.targets is None else "targets"
            raise NotAcceptableError(
                "Accept: image/png is for one picture and one prompt or target, not "
                f"{len(intake.images)} and {targets}: ask for application/json.",
                field=asked if len(intake.images) == 1 else "images",
            )
        only_overlay = {"heatmap": "none", "overlay": True, "regions_threshold": None}
        body = body.model_copy(update={"output": body.output.model_copy(update=only_overlay)})
    command = ExplainCommand(
        images=intake.images,
        image_fields=intake.image_fields,
        question=intake.question,
        model=body.model,
        options=body.options,
        output=body.output,
        received=received,
        deadline=deadline,
    )
    return await _unless_client_leaves(request, request.app.state.explaining, command)


def _pictured(outcome: ExplainOutcome) -> int:
    return sum(
        len(target.heatmap or "") + len(target.overlay or "")
        for image in outcome.images
        for target in image.targets
    )


def _serialize(request_id: str, outcome: ExplainOutcome) -> bytes:
    response = ExplainResponse(
        request_id=request_id,
        model=outcome.model,
        layers=list(outcome.layers),
        score=outcome.score,
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
    if {JSON, "application/*", "*/*", ""} & set(accepted):
        return accepted[0] == _PNG
    if {_PNG, "image/*"} & set(accepted):
        return True
    raise NotAcceptableError(
        f"Answers are {JSON} or {_PNG}, not {request.headers['accept']!r}.", field="Accept"
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
