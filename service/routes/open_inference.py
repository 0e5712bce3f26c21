"""The Open Inference Protocol, also called V2, of KServe and Triton clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import Depends, Request, Response
from numpy.typing import NDArray
from pydantic_core import to_json

from legrad_engine.errors import InvalidOptionError
from service.explaining.command import ExplainInputs
from service.explaining.offloading import offload
from service.explaining.outcome import ExplainOutcome
from service.http.access import EXPLAIN, OPEN
from service.http.access_routes import AccessRouter
from service.http.application import application_of
from service.http.headers import single
from service.http.problems import invalid
from service.pool.pooled_model import PooledModel
from service.routes.bodies.reading import (
    JSON,
    check_image_count,
    image_bytes,
    parse,
    read_json,
    rules_of,
)
from service.routes.bodies.targets import read_question
from service.routes.bodies.validation import fitted, validated
from service.routes.models import ModelId
from service.routes.protocol_errors import kserve_error, only_version
from service.routes.requests import TIMEOUT_PARAMETER, accept
from service.routes.tensors import (
    JSON_LENGTH_HEADER,
    BytesTensor,
    check_parameters,
    read_tensors,
    split_body,
    write_tensors,
)
from service.schemas.protocols import (
    INFERENCE_NAMES,
    InferenceRequest,
    InferenceResponse,
    MethodParameters,
    ModelMetadata,
    ModelReadiness,
    OutputName,
    ProtocolError,
    RequestedOutput,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
    errors_of,
)
from service.schemas.requests import ExplainOptions, OutputOptions
from service.settings.values import RequestLimits

_VERSION = "1"
_BINARY = "application/octet-stream"
_INPUTS = ("IMAGE", "TEXT")
_OUTPUTS: dict[OutputName, int] = {"HEATMAP": 4, "SIMILARITY": 2, "PROBABILITY": 2}
# Only of models with a calibration, and only if it is requested.
_PRESENCE: dict[OutputName, int] = {"PRESENCE": 2}

# The output tensors hold raw maps and numbers.
_NOTHING_DRAWN = OutputOptions(heatmap="none", overlay=False, regions_threshold=None)

_KIND: dict[str, Any] = {
    "prefix": "/v2",
    "tags": ["Open Inference Protocol"],
    "error_form": kserve_error,
    "responses": errors_of(ProtocolError),
}
router = AccessRouter(EXPLAIN, **_KIND, dependencies=[Depends(only_version(_VERSION))])
health_router = AccessRouter(OPEN, **_KIND)

_BYTES_AFTER_JSON: dict[str, Any] = {
    "schema": {"type": "string", "format": "binary"},
    "example": '{"inputs": [...]} and then the bytes of the tensors',
}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: {"schema": {"$ref": "#/components/schemas/InferenceRequest"}},
        _BINARY: _BYTES_AFTER_JSON,
    },
}
_VERSION_PARAMETER: dict[str, Any] = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "The model's only version.",
    "schema": {"type": "string", "const": _VERSION},
}
_LENGTH_PARAMETER: dict[str, Any] = {
    "name": JSON_LENGTH_HEADER,
    "in": "header",
    "required": False,
    "description": "Length of the JSON in bytes, if tensors follow it.",
    "schema": {"type": "integer", "minimum": 0, "example": 161},
}
_OF_A_VERSION: dict[str, Any] = {"parameters": [_VERSION_PARAMETER]}
_INFER: dict[str, Any] = {
    "requestBody": _REQUEST_BODY,
    "parameters": [TIMEOUT_PARAMETER, _LENGTH_PARAMETER],
}
_INFER_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The explanations; tensors follow the JSON as bytes if requested.",
        "content": {_BINARY: _BYTES_AFTER_JSON},
    }
}


@dataclass(frozen=True, slots=True)
class _Inference:
    """A checked inference request.

    Attributes:
        id: the id in the request, for the answer; None without one.
        model_name: the model that the body names beside the path; None without one.
        inputs: the inputs of the command.
        outputs: names of the wanted tensors, and whether each is sent as bytes.
    """

    id: str | None
    model_name: str | None
    inputs: ExplainInputs
    outputs: Mapping[str, bool]


# The specification has the path with a slash, KServe's server without.
@router.get("/", include_in_schema=False)
@router.get("", summary="Describe the server (V2)")
async def describe_server(request: Request) -> ServerMetadata:
    """Return the server's name, its version and its extensions of the protocol."""
    return ServerMetadata(
        name="legrad", version=request.app.version, extensions=["binary_tensor_data"]
    )


@health_router.get("/health/live", summary="Check that the process answers (V2)")
async def live() -> ServerLive:
    """Check that the process answers, like `/health/live`."""
    return ServerLive(live=True)


@health_router.get("/health/ready", summary="Check the readiness of the server (V2)")
async def ready(request: Request) -> ServerReady:
    """Check the readiness of the server, like `/health/ready`."""
    application_of(request.app).readiness.require()
    return ServerReady(ready=True)


@router.get(
    "/models/{model_id}/versions/{version}",
    summary="Describe a version of a model (V2)",
    openapi_extra=_OF_A_VERSION,
)
@router.get("/models/{model_id}", summary="Describe a model (V2)")
async def describe_model(request: Request, model_id: ModelId) -> ModelMetadata:
    """Return the input and output tensors of a model.

    All models have the same, but for `PRESENCE` of those with a calibration.
    """
    model = application_of(request.app).pool.get(model_id)
    outputs = _OUTPUTS if model.presence is None else _OUTPUTS | _PRESENCE
    return ModelMetadata(
        name=model.id,
        versions=[_VERSION],
        platform="pytorch",
        inputs=[TensorMetadata(name=name, datatype="BYTES", shape=[-1]) for name in _INPUTS],
        outputs=[
            TensorMetadata(name=name, datatype="FP32", shape=[-1] * dimensions)
            for name, dimensions in outputs.items()
        ],
    )


@router.get(
    "/models/{model_id}/versions/{version}/ready",
    summary="Check the readiness of a version of a model (V2)",
    openapi_extra=_OF_A_VERSION,
)
@router.get("/models/{model_id}/ready", summary="Check the readiness of a model (V2)")
async def model_ready(request: Request, model_id: ModelId) -> ModelReadiness:
    """Check that the model is in memory and would answer; return an error otherwise."""
    readiness = application_of(request.app).readiness
    return ModelReadiness(name=readiness.require_model(model_id).id, ready=True)


@router.post(
    "/models/{model_id}/versions/{version}/infer",
    summary="Explain pictures with a version of a model (V2)",
    response_model=InferenceResponse,
    responses=_INFER_RESPONSES,
    openapi_extra={**_INFER, "parameters": [*_INFER["parameters"], _VERSION_PARAMETER]},
)
@router.post(
    "/models/{model_id}/infer",
    summary="Explain pictures (V2)",
    response_model=InferenceResponse,
    responses=_INFER_RESPONSES,
    openapi_extra=_INFER,
)
async def infer(request: Request, model_id: ModelId) -> Response:
    """Explain every picture for every text; the heatmaps are one tensor of raw patch grids.

    With `fit=native`, the grids of pictures can differ in size and then do not fit one tensor: send
    such pictures one by one, or request the other outputs alone.
    """
    accepted = accept(request)
    asked = await accepted.read(_read(request, model_id))
    outcome = await accepted.explain(asked.inputs)
    method = outcome.images[0].method
    response = InferenceResponse(
        model_name=outcome.model,
        model_version=_VERSION,
        id=accepted.record.request_id if asked.id is None else asked.id,
        parameters=MethodParameters(method=method.name, targeted=method.targeted),
        outputs=[],
    )
    body, json_length = await offload(_map_bytes(outcome), _write, response, outcome, asked)
    if json_length is None:
        return Response(body, media_type=JSON)
    return Response(body, media_type=_BINARY, headers={JSON_LENGTH_HEADER: str(json_length)})


async def _read(request: Request, model: str) -> _Inference:
    raw = await read_json(request)
    json_length = single(request.headers, JSON_LENGTH_HEADER)
    limits = rules_of(request).limits
    asked = await parse(request, len(raw), _parse, raw, json_length, model, limits)
    pool = application_of(request.app).pool
    if asked.model_name is not None and pool.get(asked.model_name) is not pool.get(model):
        raise invalid(
            f"The path names the model {model!r}, and the body {asked.model_name!r}: leave "
            "model_name out.",
            "model_name",
        )
    if not _PRESENCE.keys().isdisjoint(asked.outputs):
        _check_presence(pool.get(model), asked.inputs.options)
    return asked


def _check_presence(model: PooledModel, options: ExplainOptions) -> None:
    """Refuse a presence that there is not: JSON has no number for it."""
    if model.presence is None:
        raise invalid(
            f"{model.id!r} has no presence calibration: leave PRESENCE out of the outputs, or give "
            "the server one by LEGRAD_PRESENCE.",
            "outputs",
        )
    if options.size is not None or options.fit != "squash":
        raise invalid(
            "PRESENCE is calibrated for the model's own input: leave size and fit out, or request "
            "the other outputs alone.",
            "outputs",
        )


def _parse(raw: bytes, json_length: str | None, model: str, limits: RequestLimits) -> _Inference:
    json, appended = split_body(raw, json_length)
    body = validated(json, InferenceRequest, INFERENCE_NAMES)
    parameters = dict(body.parameters or {})
    all_binary = _switch(parameters.pop("binary_data_output", False), "binary_data_output")
    outputs = _outputs(body.outputs or (), all_binary)
    tensors = read_tensors(body.inputs, appended, _INPUTS)
    pictures = tensors["IMAGE"]
    check_image_count(len(pictures.elements), limits)
    fields = [f"{pictures.field}.{position}" for position in range(len(pictures.elements))]
    options = _options(parameters)
    images = [
        element if isinstance(element, bytes) else image_bytes(element, field)
        for element, field in zip(pictures.elements, fields, strict=True)
    ]
    question = read_question(_texts(tensors["TEXT"]), (), options.negatives, image_bytes)
    return _Inference(
        body.id,
        body.model_name,
        ExplainInputs(images, fields, question, model, options, _NOTHING_DRAWN),
        outputs or dict.fromkeys(_OUTPUTS, all_binary),
    )


def _outputs(requested: Sequence[RequestedOutput], all_binary: bool) -> dict[str, bool]:
    """Return the names of the requested tensors, and whether each is sent as bytes."""
    outputs: dict[str, bool] = {}
    for position, output in enumerate(requested):
        if output.name in outputs:
            raise invalid(f"Request {output.name} once.", "outputs", position, "name")
        parameters = output.parameters or {}
        check_parameters(parameters, "outputs", position)
        given = parameters.get("binary_data", all_binary)
        outputs[output.name] = _switch(given, "binary_data", "outputs", position)
    return outputs


def _switch(value: object, name: str, *location: str | int) -> bool:
    if not isinstance(value, bool):
        raise invalid(
            f"{name} should be true or false, not {value!r}.", *location, "parameters", name
        )
    return value


def _options(parameters: dict[str, Any]) -> ExplainOptions:
    layers = parameters.get("layers")
    if isinstance(layers, str) and layers.strip().isdecimal():
        raise invalid(
            f"{layers!r} may be a count or an index: write a count as a number, and one index as "
            f'"{layers.strip()},".',
            "parameters",
            "layers",
        )
    if isinstance(layers, str) and layers != "all":
        # The protocol's parameters cannot be lists.
        try:
            parameters["layers"] = [int(index) for index in layers.removesuffix(",").split(",")]
        except ValueError as error:
            raise invalid(
                f'Write block indices as "0,-1", or "all", not {layers!r}.', "parameters", "layers"
            ) from error
    return fitted(to_json(parameters), ExplainOptions, within=("parameters",))


def _texts(tensor: BytesTensor) -> list[str]:
    texts = []
    for position, element in enumerate(tensor.elements):
        try:
            texts.append(element if isinstance(element, str) else element.decode())
        except UnicodeDecodeError as error:
            raise invalid(
                f"The text is not UTF-8: {error}.", *tensor.field.split("."), position
            ) from error
    return texts


def _write(
    response: InferenceResponse, outcome: ExplainOutcome, asked: _Inference
) -> tuple[bytes, int | None]:
    tensors = {name: _tensor(name, outcome) for name in asked.outputs}
    return write_tensors(
        response, tensors, [name for name, binary in asked.outputs.items() if binary]
    )


def _tensor(name: str, outcome: ExplainOutcome) -> NDArray[np.float32]:
    targets = [image.targets for image in outcome.images]
    if name == "HEATMAP":
        grids = [image.geometry.grid for image in outcome.images]
        if len(set(grids)) > 1:
            listed = ", ".join(f"{rows} x {columns}" for rows, columns in dict.fromkeys(grids))
            raise InvalidOptionError(
                f"The pictures' grids differ ({listed}), so that one tensor cannot hold their "
                "maps: send them one by one, with another fit, or leave HEATMAP out of the "
                "outputs.",
                field="parameters.fit",
            )
        return np.array([[target.drawn.map for target in each] for each in targets], np.float32)
    values = [[getattr(target, name.lower()) for target in each] for each in targets]
    return np.array(values, np.float32)


def _map_bytes(outcome: ExplainOutcome) -> int:
    return sum(target.drawn.map.nbytes for image in outcome.images for target in image.targets)
