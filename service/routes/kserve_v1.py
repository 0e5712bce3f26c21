"""KServe's V1 protocol: `/v1/models` and `:explain`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from legrad_engine.errors import LegradError
from legrad_engine.targets.questions import Question
from service.explaining.command import ExplainInputs
from service.http.access import EXPLAIN
from service.http.access_routes import AccessRouter
from service.http.application import application_of
from service.routes.answers import image_explanation
from service.routes.bodies.reading import (
    JSON,
    BodyRules,
    check_asked,
    check_image_count,
    inputs_of,
    parse,
    question_of,
    read_image,
    read_json,
    rules_of,
)
from service.routes.bodies.validation import validated
from service.routes.models import ModelId
from service.routes.protocol_errors import kserve_error
from service.routes.requests import TIMEOUT_PARAMETER, accept
from service.routes.writing import json_answer
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


@dataclass(frozen=True, slots=True)
class _Group:
    """Instances with equal targets and options, computed as one command.

    Attributes:
        positions: their positions in the request.
        inputs: the inputs of the command.
    """

    positions: Sequence[int]
    inputs: ExplainInputs


@router.get("/models", summary="List the served models (KServe V1)")
async def list_models(request: Request) -> ModelNames:
    """Return the ids of all served models, the default one first."""
    return ModelNames(models=[model.id for model in application_of(request.app).pool])


@router.get("/models/{model_id}", summary="Check the readiness of a model (KServe V1)")
async def model_ready(request: Request, model_id: ModelId) -> ModelReadiness:
    """Check that the model is in memory and would answer; return an error otherwise."""
    readiness = application_of(request.app).readiness
    return ModelReadiness(name=readiness.require_model(model_id).id, ready=True)


@router.post(
    "/models/{model_id}:explain",
    summary="Explain instances (KServe V1)",
    response_model=Explanations,
    openapi_extra={"requestBody": _REQUEST_BODY, "parameters": [TIMEOUT_PARAMETER]},
)
async def explain(request: Request, model_id: ModelId) -> Response:
    """Explain pictures, each with its own prompts and options.

    Instances with equal prompts, targets and options are one request to the model. Each other
    combination is a further request to the model, and counts as one.
    """
    accepted = accept(request)
    groups = await accepted.read(_read(request, model_id))
    outcomes = await accepted.explain_all([group.inputs for group in groups])
    explained = {
        position: (image, group.inputs.output)
        for group, outcome in zip(groups, outcomes, strict=True)
        for position, image in zip(group.positions, outcome.images, strict=True)
    }
    in_order = [explained[key] for key in sorted(explained)]
    return await json_answer(
        sum(outcome.target_count for outcome in outcomes),
        lambda place: Explanations(
            explanations=[image_explanation(image, output, place) for image, output in in_order]
        ),
    )


async def _read(request: Request, model: str) -> list[_Group]:
    raw = await read_json(request)
    return await parse(request, len(raw), _grouped, raw, model, rules_of(request))


def _grouped(raw: bytes, model: str, rules: BodyRules) -> list[_Group]:
    body = validated(raw, InstancesRequest, INSTANCES_NAMES)
    check_image_count(len(body.instances), rules.limits)
    alike: dict[str, list[int]] = {}
    for position, instance in enumerate(body.instances):
        check_asked(instance, "instances", position)
        alike.setdefault(instance.model_dump_json(exclude={"image"}), []).append(position)
    return [_group(body.instances, positions, model, rules) for positions in alike.values()]


def _group(
    instances: Sequence[Instance], positions: Sequence[int], model: str, rules: BodyRules
) -> _Group:
    first = positions[0]
    fields = [f"instances.{position}.image" for position in positions]
    images = [
        read_image(instances[position].image, field, rules.urls)
        for position, field in zip(positions, fields, strict=True)
    ]
    question = _question(instances[first], first)
    return _Group(positions, inputs_of(instances[first], images, fields, question, model))


def _question(instance: Instance, position: int) -> Question:
    try:
        return question_of(instance)
    except LegradError as error:
        error.field = f"instances.{position}.{error.field}"
        raise
