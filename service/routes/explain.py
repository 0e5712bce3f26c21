"""`POST /explain`."""

import base64
from typing import Annotated, Any

from fastapi import Path, Request, Response
from pydantic import TypeAdapter

from service.errors import NotAcceptableError
from service.explaining.command import ExplainCommand, ExplainOutcome
from service.explaining.offloading import offload_if_large
from service.explaining.service import ExplainingService
from service.http.access import EXPLAIN, OPEN
from service.http.access_routes import AccessRouter
from service.routes.bodies.reading import JSON, MULTIPART, Intake, read_request
from service.routes.requests import TIMEOUT_PARAMETER, AcceptedRequest, accept
from service.schemas.answers import ExplainProgress, ExplainResponse
from service.schemas.targets import Targets

router = AccessRouter(needs=EXPLAIN, tags=["explain"])
# Open: asking how far a request is takes nothing from its key's limits, and an id that its caller
# chose well is as good as a key for that little.
progress_router = AccessRouter(needs=OPEN, tags=["explain"])

RequestId = Annotated[
    str,
    Path(
        max_length=128,
        description="The `X-Request-ID` that the request was sent with.",
        examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"],
    ),
]

_PNG = "image/png"

_TARGETS_SCHEMA = TypeAdapter(Targets).json_schema(ref_template="#/components/schemas/{model}")
# They are among the components already, with the JSON body.
del _TARGETS_SCHEMA["$defs"]
# Beside the picture, in every multipart body.
TEXT_PARTS: dict[str, Any] = {
    "prompts": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string"},
        "description": "What to look for; repeat the field for several prompts.",
        "example": ["a cat", "a dog"],
    },
    "targets": {
        **_TARGETS_SCHEMA,
        "description": "`targets` as JSON, in one field; needed where there are no prompts.",
        "example": [{"type": "text", "text": "a cat"}],
    },
    "options": {
        "$ref": "#/components/schemas/ExplainOptions",
        "description": "What is computed, as JSON.",
        "example": {"layers": 2},
    },
    "output": {
        "$ref": "#/components/schemas/OutputOptions",
        "description": "What is sent back, as JSON.",
        "example": {"heatmap": "none"},
    },
}
TEXT_ENCODING: dict[str, Any] = {
    name: {"contentType": JSON} for name in ("targets", "options", "output")
}

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
        "model": {
            "type": "string",
            "description": "Id of a model from `/models`.",
            "example": "starter",
        },
        **TEXT_PARTS,
    },
    "anyOf": [{"required": ["prompts"]}, {"required": ["targets"]}],
}

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/ExplainRequest"}},
        MULTIPART: {
            "schema": _MULTIPART_SCHEMA,
            "encoding": {
                "image": {"contentType": "image/*, application/octet-stream"},
                **TEXT_ENCODING,
            },
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
        "parameters": [TIMEOUT_PARAMETER],
    },
)
async def explain(request: Request) -> Response:
    """Shows where a model looked in each picture for each prompt or other target.

    Send JSON with base64 or data URLs, or `multipart/form-data` with files. With
    `Accept: image/png`, one picture and one target are answered by the overlay itself.
    """
    wants_png = _wants_png(request)
    accepted = accept(request)
    intake = await accepted.read(read_request(request, request.app.state.settings))
    outcome = await accepted.carry_out(_command(accepted, intake, wants_png))
    if wants_png:
        return Response(
            base64.b64decode(outcome.images[0].targets[0].overlay or ""), media_type=_PNG
        )
    content = await offload_if_large(
        outcome.pictured_bytes, _serialize, request.state.request_id, outcome
    )
    return Response(content, media_type=JSON)


def _command(accepted: AcceptedRequest, intake: Intake, wants_png: bool) -> ExplainCommand:
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
    return ExplainCommand(
        images=intake.images,
        image_fields=intake.image_fields,
        question=intake.question,
        model=body.model,
        options=body.options,
        output=body.output,
        received=accepted.received,
        deadline=accepted.deadline,
        progress=accepted.progress,
    )


@progress_router.get("/explain/{request_id}/progress", summary="How far a request is")
async def explain_progress(request: Request, request_id: RequestId) -> ExplainProgress:
    """How far an explanation is that is not answered yet, by the `X-Request-ID` it was sent with.

    Only the replica that holds the request knows it, and only until it is answered. Choose an id
    that nobody guesses: whoever knows it may ask.
    """
    explaining: ExplainingService = request.app.state.explaining
    reading = explaining.progress.read(request_id)
    return ExplainProgress(
        stage=reading.stage, position=reading.position, estimated_seconds=reading.seconds
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
