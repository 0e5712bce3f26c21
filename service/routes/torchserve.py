"""TorchServe's explanations: a picture as the body, prompts in the query."""

from typing import Any

from fastapi import Depends, Request, Response

from legrad_engine.targets.questions import Question
from service.errors import UnsupportedMediaTypeError
from service.explaining.command import ExplainCommand
from service.explaining.offloading import offload_if_large
from service.http.access import EXPLAIN, OPEN
from service.http.access_routes import AccessRouter
from service.pool.readiness import Readiness
from service.routes.bodies.reading import JSON, MULTIPART, form_parts, from_texts, read_body
from service.routes.bodies.validation import invalid
from service.routes.explain import TEXT_ENCODING, TEXT_PARTS
from service.routes.models import ModelId
from service.routes.protocol_errors import only_version, torchserve_error
from service.routes.requests import TIMEOUT_PARAMETER, accept
from service.schemas.answers import ImageExplanation
from service.schemas.protocols import Ping, TorchServeError, errors_of
from service.schemas.requests import ExplainBody
from service.settings import Settings

_VERSION = "1.0"
_RAW = "application/octet-stream"
_PART = "data"


_KIND: dict[str, Any] = {
    "tags": ["TorchServe"],
    "error_form": torchserve_error,
    "responses": errors_of(TorchServeError),
}
router = AccessRouter(EXPLAIN, **_KIND, dependencies=[Depends(only_version(_VERSION))])
health_router = AccessRouter(OPEN, **_KIND)


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {JSON: {"schema": schema}}} if name in TEXT_ENCODING else {"schema": schema}


_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _FILE,
            _RAW: _FILE,
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": [_PART],
                    "additionalProperties": False,
                    "properties": {
                        _PART: {
                            "type": "string",
                            "format": "binary",
                            "description": "The picture as a file.",
                        },
                        **TEXT_PARTS,
                    },
                },
                "encoding": TEXT_ENCODING,
            },
        },
    },
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            **_in_query(name, {key: schema[key] for key in schema if key != "description"}),
        }
        for name, schema in TEXT_PARTS.items()
    ]
    + [TIMEOUT_PARAMETER],
}
_OF_A_VERSION: dict[str, Any] = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "The model's version; there is one.",
    "schema": {"type": "string", "const": _VERSION},
}
_EXPLAIN: dict[str, Any] = {
    "summary": "Explain a picture (TorchServe)",
    "response_model": ImageExplanation,
    "openapi_extra": _REQUEST,
}
_EXPLAIN_VERSION: dict[str, Any] = {
    "summary": "Explain a picture with a version of a model (TorchServe)",
    "response_model": ImageExplanation,
    "openapi_extra": {**_REQUEST, "parameters": [*_REQUEST["parameters"], _OF_A_VERSION]},
}


@health_router.get("/ping", summary="Whether the server can answer (TorchServe)")
async def ping(request: Request) -> Ping:
    """As `/health/ready`."""
    readiness: Readiness = request.app.state.readiness
    readiness.require()
    return Ping(status="Healthy")


@router.put("/explanations/{model_id}/{version}", **_EXPLAIN_VERSION)
@router.post("/explanations/{model_id}/{version}", **_EXPLAIN_VERSION)
@router.put("/explanations/{model_id}", **_EXPLAIN)
@router.post("/explanations/{model_id}", **_EXPLAIN)
async def explain(request: Request, model_id: ModelId) -> Response:
    """Explains one picture: the body itself, or the part `data` of a multipart body.

    Prompts, targets and options are in the query, or in other parts of the multipart body.
    """
    accepted = accept(request)
    image, body, question = await accepted.read(_read(request))
    outcome = await accepted.carry_out(
        ExplainCommand(
            images=[image],
            image_fields=[_PART],
            question=question,
            model=model_id,
            options=body.options,
            output=body.output,
            received=accepted.received,
            deadline=accepted.deadline,
            progress=accepted.progress,
        )
    )
    (explanation,) = outcome.images
    content = await offload_if_large(outcome.pictured_bytes, explanation.model_dump_json)
    return Response(content, media_type=JSON)


async def _read(request: Request) -> tuple[bytes, ExplainBody, Question]:
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    # Programs that send a file as it is, such as curl -T, may say nothing of its type.
    if kind not in (MULTIPART, _RAW, "") and not kind.startswith("image/"):
        raise UnsupportedMediaTypeError(
            f"Send the picture as image/*, {_RAW} or {MULTIPART}, not {kind!r}.",
            field="Content-Type",
        )
    raw = await read_body(request)
    texts = request.query_params.multi_items()
    if kind != MULTIPART:
        size = sum(len(text) for _, text in texts)
        return raw, *await offload_if_large(size, from_texts, texts, ExplainBody)
    settings: Settings = request.app.state.settings
    return await offload_if_large(len(raw), _from_multipart, raw, content_type, texts, settings)


def _from_multipart(
    raw: bytes, content_type: str, texts: list[tuple[str, str]], settings: Settings
) -> tuple[bytes, ExplainBody, Question]:
    images, parts = form_parts(raw, content_type, settings, [_PART])
    if len(images) != 1:
        raise invalid(f"Send one picture, not {len(images)}.", _PART)
    return images[0], *from_texts([*texts, *parts], ExplainBody)
