"""`POST /explain`."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import Path, Request, Response
from pydantic import TypeAdapter

from service.errors import NotAcceptableError
from service.explaining.command import ExplainInputs
from service.explaining.offloading import offload
from service.explaining.outcome import ExplainOutcome
from service.http.access import EXPLAIN, OPEN
from service.http.access_routes import AccessRouter
from service.http.application import application_of
from service.routes.accept import choose
from service.routes.answers import image_explanation, timings
from service.routes.bodies.reading import JSON, MULTIPART, read_request
from service.routes.requests import TIMEOUT_PARAMETER, accept
from service.schemas.answers import ExplainProgress, ExplainResponse
from service.schemas.targets import Targets

router = AccessRouter(needs=EXPLAIN, tags=["explain"])
# Open, so that reading progress does not count for a key. A random request id protects this little
# information well enough.
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
# The JSON body has already added them to the components.
del _TARGETS_SCHEMA["$defs"]
# Parts of every multipart body, beside the picture.
TEXT_PARTS: dict[str, Any] = {
    "prompts": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string"},
        "description": "A text to explain the picture for; repeat the field for several prompts. "
        "Give prompts, targets, or both.",
        "example": ["a cat", "a dog"],
    },
    "targets": {
        **_TARGETS_SCHEMA,
        "description": "Targets as JSON, all in one field or each in one of its own. Give prompts, "
        "targets, or both.",
        "example": [{"type": "text", "text": "a cat"}],
    },
    "options": {
        "$ref": "#/components/schemas/ExplainOptions",
        "description": "Options of the computation, as JSON.",
        "example": {"layers": 2},
    },
    "output": {
        "$ref": "#/components/schemas/OutputOptions",
        "description": "Options of the answer, as JSON.",
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
            "description": "Id of a model from `/models`, or its name as in the settings.",
            "example": "starter",
        },
        **TEXT_PARTS,
    },
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
    """Show where a model looks in each picture for each prompt or other target.

    Send JSON with base64 or data URLs, or `multipart/form-data` with files. If `Accept` prefers
    `image/png`, the answer to one picture and one target is the overlay itself.
    """
    wants_png = choose(request.headers.getlist("accept"), (JSON, _PNG)) == _PNG
    accepted = accept(request)
    inputs = await accepted.read(read_request(request))
    outcome = await accepted.explain(_only_overlay(inputs) if wants_png else inputs)
    if wants_png:
        return Response(outcome.images[0].targets[0].drawn.overlay, media_type=_PNG)
    content = await offload(outcome.encoded_bytes, _serialize, accepted.record.request_id, outcome)
    return Response(content, media_type=JSON)


def _only_overlay(inputs: ExplainInputs) -> ExplainInputs:
    """Return the inputs with an overlay as the only output, of one picture and one target.

    Raises:
        NotAcceptableError: there are several pictures or targets.
    """
    targets = len(inputs.question.targets)
    if len(inputs.images) != 1 or targets != 1:
        asked = "prompts" if (inputs.question.fields or ())[-1:] == ("prompts",) else "targets"
        raise NotAcceptableError(
            "Accept: image/png is for one picture and one prompt or target, not "
            f"{len(inputs.images)} and {targets}: ask for application/json.",
            field=asked if len(inputs.images) == 1 else "images",
        )
    only_overlay = {
        "heatmap": "none",
        "overlay": True,
        "format": "png",
        "regions_threshold": None,
    }
    return replace(inputs, output=inputs.output.model_copy(update=only_overlay))


@progress_router.get("/explain/{request_id}/progress", summary="Read the progress of a request")
async def explain_progress(request: Request, request_id: RequestId) -> ExplainProgress:
    """Return the progress of a request that is not answered yet, by its `X-Request-ID`.

    Only the replica that handles the request knows its progress, and only until it is answered.
    Choose an id that cannot be guessed: everyone who knows it can read the progress.
    """
    reading = application_of(request.app).explaining.progress.read(request_id)
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
        images=[image_explanation(image) for image in outcome.images],
        timings=timings(outcome.seconds),
    )
    return response.model_dump_json().encode()
