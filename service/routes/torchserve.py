"""TorchServe's explanations: a picture as the body, prompts in the query."""

import json
from typing import Any

from fastapi import Depends, Request, Response

from service.errors import UnsupportedMediaTypeError
from service.explaining.command import ExplainInputs
from service.http.access import EXPLAIN, OPEN
from service.http.access_routes import AccessRouter
from service.http.application import application_of
from service.http.problems import invalid
from service.routes.answers import image_explanation
from service.routes.bodies.multipart import TextPart
from service.routes.bodies.reading import (
    MULTIPART,
    content_type_of,
    form_parts,
    from_texts,
    inputs_of,
    parse,
    read_body,
    rules_of,
)
from service.routes.explain import TEXT_ENCODING, TEXT_PARTS
from service.routes.models import ModelId
from service.routes.protocol_errors import only_version, torchserve_error
from service.routes.requests import TIMEOUT_PARAMETER, accept
from service.routes.writing import json_answer
from service.schemas.answers import ImageExplanation
from service.schemas.protocols import Ping, TorchServeError, errors_of
from service.schemas.requests import ExplainBody
from service.settings.values import RequestLimits

_VERSION = "1.0"
_RAW = "application/octet-stream"
_PART = "data"

_KIND: dict[str, Any] = {
    "tags": ["TorchServe"],
    "error_form": torchserve_error,
    "responses": errors_of(TorchServeError),
}
router = AccessRouter(
    EXPLAIN, **_KIND, any_query=True, dependencies=[Depends(only_version(_VERSION))]
)
health_router = AccessRouter(OPEN, **_KIND)


def _in_query(name: str, part: dict[str, Any]) -> dict[str, Any]:
    """Return the query parameter that means the same as a part of a form."""
    schema = {key: part[key] for key in part if key != "description"}
    if name in TEXT_ENCODING:
        # Generators of clients know no JSON in a query.
        schema = {"type": "string", "example": json.dumps(part["example"])}
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": part["description"],
        "schema": schema,
    }


_FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            # Any image/* is accepted too, but generators of clients know no ranges of types.
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
        *(_in_query(name, part) for name, part in TEXT_PARTS.items()),
        TIMEOUT_PARAMETER,
    ],
}
_OF_A_VERSION: dict[str, Any] = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "The model's only version.",
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


@health_router.get("/ping", summary="Check the readiness of the server (TorchServe)")
async def ping(request: Request) -> Ping:
    """Check the readiness of the server, like `/health/ready`."""
    application_of(request.app).readiness.require()
    return Ping(status="Healthy")


@router.put("/explanations/{model_id}/{version}", **_EXPLAIN_VERSION)
@router.post("/explanations/{model_id}/{version}", **_EXPLAIN_VERSION)
@router.put("/explanations/{model_id}", **_EXPLAIN)
@router.post("/explanations/{model_id}", **_EXPLAIN)
async def explain(request: Request, model_id: ModelId) -> Response:
    """Explain one picture: the body itself, of any `image/*` type, or the part `data` of a form.

    Send prompts, targets and options in the query, or in other parts of the multipart body.
    """
    accepted = accept(request)
    inputs = await accepted.read(_read(request, model_id))
    (image,) = (await accepted.explain(inputs)).images
    return await json_answer(
        len(image.targets), lambda place: image_explanation(image, inputs.output, place)
    )


async def _read(request: Request, model: str) -> ExplainInputs:
    kind, _ = content_type_of(request)
    # Programs that send a file as the body, such as curl -T, may leave out its type.
    if kind not in (MULTIPART, _RAW, "") and not kind.startswith("image/"):
        raise UnsupportedMediaTypeError(
            f"Send the picture as image/*, {_RAW} or {MULTIPART}, not {kind!r}.",
            field="Content-Type",
            media_types=("image/*", _RAW, MULTIPART),
        )
    raw = await read_body(request)
    texts = [TextPart(name, text) for name, text in request.query_params.multi_items()]
    if kind != MULTIPART:
        size = sum(len(part.text) for part in texts)
        return await parse(request, size, _inputs, raw, texts, model)
    header, limits = request.headers["Content-Type"], rules_of(request).limits
    return await parse(request, len(raw), _from_multipart, raw, header, texts, model, limits)


def _from_multipart(
    raw: bytes,
    content_type: str,
    texts: list[TextPart],
    model: str,
    limits: RequestLimits,
) -> ExplainInputs:
    form = form_parts(raw, content_type, limits, [_PART])
    if len(form.pictures) != 1:
        raise invalid(f"Send one picture, not {len(form.pictures)}.", _PART)
    return _inputs(form.pictures[0], [*texts, *form.texts], model)


def _inputs(image: bytes, texts: list[TextPart], model: str) -> ExplainInputs:
    body, question = from_texts(texts, ExplainBody)
    return inputs_of(body, [image], [_PART], question, model)
