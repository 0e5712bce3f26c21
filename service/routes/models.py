"""The served models: description, classes, readiness, loading and unloading."""

import time
from typing import Annotated

from fastapi import Depends, Path, Query, Request, Response
from pydantic import AfterValidator

from legrad_engine.targets.class_search import search_classes
from service.errors import MalformedBodyError
from service.http.access import ADMIN, EXPLAIN
from service.http.access_routes import ENCODED_SLASH, AccessRouter
from service.http.application import application_of
from service.http.record import record_of
from service.routes.requests import TIMEOUT_PARAMETER
from service.schemas.answers import Health
from service.schemas.models import ClassList, ModelClass, ModelInfo, ModelList

router = AccessRouter(needs=EXPLAIN | ADMIN, tags=["models"])


async def without_body(request: Request) -> None:
    """Refuse a body, which would be ignored; some clients send an empty object.

    Raises:
        MalformedBodyError: the request has a body.
    """
    if (await request.body()).strip() not in (b"", b"{}", b"null"):
        raise MalformedBodyError(
            "This operation takes no body: write wait_seconds into the query.", field="body"
        )


admin_router = AccessRouter(needs=ADMIN, tags=["models"], dependencies=[Depends(without_body)])

ModelId = Annotated[
    str,
    Path(
        description="Id of a model from `/models`, or its name as in the settings, with its "
        "slashes encoded as `%2F`.",
        examples=["starter"],
    ),
    AfterValidator(lambda name: name.replace(ENCODED_SLASH, "/")),
]
WaitSeconds = Annotated[
    float,
    Query(
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="Longest time to wait for the operation to end before answering, in seconds.",
        examples=[10],
    ),
]
Search = Annotated[
    str,
    Query(
        max_length=200,
        description="Words that a label must contain, in any order and case, or the index of a "
        "class; empty for all classes.",
        examples=["tabby"],
    ),
]
Limit = Annotated[
    int, Query(ge=1, le=1000, description="Largest number of classes to return.", examples=[100])
]
Offset = Annotated[
    int,
    Query(
        ge=0,
        le=1_000_000,
        description="Number of matching classes to skip, for the next page.",
        examples=[0],
    ),
]


@router.get("/models", summary="List the served models")
async def list_models(request: Request) -> ModelList:
    """Return every served model, the default one first."""
    pool = application_of(request.app).pool
    return ModelList(models=[model.info() for model in pool])


@router.get("/models/{model_id}", summary="Describe a served model")
async def describe_model(request: Request, model_id: ModelId) -> ModelInfo:
    """Return one served model."""
    pool = application_of(request.app).pool
    return pool.get(model_id).info()


@router.get(
    "/models/{model_id}/classes",
    summary="List or search the classes of a model",
    openapi_extra={"parameters": [TIMEOUT_PARAMETER]},
)
async def list_classes(
    request: Request,
    model_id: ModelId,
    search: Search = "",
    limit: Limit = 100,
    offset: Offset = 0,
) -> ClassList:
    """Return classes of the model's classifier, for targets of type `class`.

    A model without a classifier has none. A model that is loaded on demand is loaded for this
    request, as for an explanation.
    """
    application = application_of(request.app)
    longest = record_of(request.scope).timeout(application.request_timeout_seconds)
    until = time.monotonic() + longest
    async with application.pool.use(model_id, until) as served:
        classifier = served.explainer.classifier
        if classifier is None:
            return ClassList(total=0, found=0, classes=[])
        found = search_classes(classifier, search)
        labels = classifier.labels
        return ClassList(
            total=classifier.count,
            found=len(found),
            classes=[
                ModelClass(index=index, label=None if labels is None else labels[index])
                for index in found[offset : offset + limit]
            ],
        )


@router.get("/models/{model_id}/ready", summary="Check the readiness of a model")
async def model_ready(request: Request, model_id: ModelId) -> Health:
    """Check that the model is in memory and would answer."""
    readiness = application_of(request.app).readiness
    readiness.require_model(model_id)
    return Health(status="ready")


@admin_router.post(
    "/models/{model_id}/load",
    summary="Load a model",
    status_code=202,
    responses={
        200: {"description": "The model is ready.", "model": ModelInfo},
        202: {"description": "The model is loading."},
    },
)
async def load_model(
    request: Request, response: Response, model_id: ModelId, wait_seconds: WaitSeconds = 0.0
) -> ModelInfo:
    """Load a model into memory; do nothing if it is loaded.

    A model that was unloaded or failed to load is loaded at once. Requires a key with the scope
    admin.
    """
    pool = application_of(request.app).pool
    model = await pool.load(model_id, wait_seconds)
    if model.state == "ready":
        response.status_code = 200
    return model.info()


@admin_router.delete(
    "/models/{model_id}",
    summary="Unload a model",
    status_code=202,
    responses={
        200: {"description": "The model is unloaded.", "model": ModelInfo},
        202: {"description": "The model finishes its accepted requests first."},
    },
)
async def unload_model(
    request: Request, response: Response, model_id: ModelId, wait_seconds: WaitSeconds = 0.0
) -> ModelInfo:
    """Unload a model once its accepted requests are answered; do nothing if it is not loaded.

    A server that loads its models at start loads it again only by `POST /models/{model_id}/load`;
    a server that loads them on demand loads it again for the next request. Requires a key with the
    scope admin.
    """
    pool = application_of(request.app).pool
    model = await pool.unload(model_id, wait_seconds)
    if model.state == "unloaded":
        response.status_code = 200
    return model.info()
