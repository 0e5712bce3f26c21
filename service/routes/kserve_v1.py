"""KServe's V1 protocol: `/v1/models` and `:explain`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response

from legrad_engine.errors import LegradError
from legrad_engine.targets.questions import Question
from service.explaining.command import ExplainCommand
from service.explaining.offloading import offload_if_large
from service.http.access import EXPLAIN
from service.http.access_routes import AccessRouter
from service.pool.model_pool import ModelPool
from service.pool.readiness import Readiness
from service.routes.bodies.reading import (
    JSON,
    check_asked,
    check_image_count,
    question_of,
    read_body,
    read_image,
)
from service.routes.bodies.validation import validated
from service.routes.models import ModelId
from service.routes.protocol_errors import kserve_error
from service.routes.requests import TIMEOUT_PARAMETER, accept
from service.schemas.answers import ImageExplanation
from service.schemas.protocols import (
    INSTANCES_NAMES,
    Explanations,
    Instance,
    InstancesRequest,
    ModelNames,
    ModelReadiness,
    ProtocolError,
    errors_of,
)
from service.settings import Settings
from service.settings.url_policy import ImageUrl

router = AccessRouter(
    needs=EXPLAIN,
    error_form=kserve_error,
    prefix="/v1",
    tags=["KServe V1"],
    responses=errors_of(ProtocolError),
)

_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/InstancesRequest"}}},
}


@dataclass(slots=True)
class _Asked:
    """Instances that ask the same, with their positions in the request."""

    body: Instance
    question: Question
    positions: list[int] = field(default_factory=list)
    images: list[bytes | ImageUrl] = field(default_factory=list)


@router.get("/models", summary="List the served models (KServe V1)")
async def list_models(request: Request) -> ModelNames:
    """The ids of all served models, the default one first."""
    pool: ModelPool = request.app.state.pool
    return ModelNames(models=[model.id for model in pool])


@router.get("/models/{model_id}", summary="Whether a model can answer (KServe V1)")
async def model_ready(request: Request, model_id: ModelId) -> ModelReadiness:
    """True while the model is in memory and would answer; otherwise an error."""
    readiness: Readiness = request.app.state.readiness
    return ModelReadiness(name=readiness.require_model(model_id).id, ready=True)


@router.post(
    "/models/{model_id}:explain",
    summary="Explain instances (KServe V1)",
    response_model=Explanations,
    openapi_extra={"requestBody": _REQUEST_BODY, "parameters": [TIMEOUT_PARAMETER]},
)
async def explain(request: Request, model_id: ModelId) -> Response:
    """Explains pictures, each with its own prompts and options.

    Instances that ask the same are one request to the model; those that do not are as many, and
    count as such.
    """
    accepted = accept(request)
    asked = await accepted.read(_read(request))
    outcomes = await accepted.carry_out_all(
        [
            ExplainCommand(
                images=each.images,
                image_fields=[f"instances.{position}.image" for position in each.positions],
                question=each.question,
                model=model_id,
                options=each.body.options,
                output=each.body.output,
                received=accepted.received,
                deadline=accepted.deadline,
                progress=accepted.progress,
            )
            for each in asked
        ]
    )
    explained = {
        position: image
        for each, outcome in zip(asked, outcomes, strict=True)
        for position, image in zip(each.positions, outcome.images, strict=True)
    }
    size = sum(outcome.pictured_bytes for outcome in outcomes)
    content = await offload_if_large(
        size, _serialize, [explained[key] for key in sorted(explained)]
    )
    return Response(content, media_type=JSON)


async def _read(request: Request) -> list[_Asked]:
    raw = await read_body(request)
    return await offload_if_large(len(raw), _group, raw, request.app.state.settings)


def _group(raw: bytes, settings: Settings) -> list[_Asked]:
    body = validated(raw, InstancesRequest, INSTANCES_NAMES)
    check_image_count(len(body.instances), settings)
    groups: dict[str, _Asked] = {}
    for position, instance in enumerate(body.instances):
        check_asked(instance, "instances", position)
        key = instance.model_dump_json(exclude={"image"})
        if key not in groups:
            groups[key] = _Asked(instance, _question(instance, position))
        groups[key].positions.append(position)
        groups[key].images.append(
            read_image(instance.image, f"instances.{position}.image", settings)
        )
    return list(groups.values())


def _question(instance: Instance, position: int) -> Question:
    try:
        return question_of(instance)
    except LegradError as error:
        error.field = f"instances.{position}.{error.field}"
        raise


def _serialize(explanations: Sequence[ImageExplanation]) -> bytes:
    return Explanations(explanations=list(explanations)).model_dump_json().encode()
