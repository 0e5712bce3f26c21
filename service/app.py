"""The application: wiring and lifespan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from legrad_engine import LegradError
from legrad_engine.devices import resolve_devices, usable_threads, use_threads, worker_names
from legrad_engine.errors import InvalidOptionError
from service.batching import BatchingError
from service.errors import ServiceError
from service.explaining.admission import Admission
from service.explaining.network import Network, SystemNetwork
from service.explaining.service import ExplainingService
from service.explaining.url_images import UrlImages
from service.http.access import AccessControl
from service.http.access_routes import SECURITY_SCHEMES, AccessRouter
from service.http.answers import AnswerReporter, answer_error
from service.http.application import ApplicationState
from service.http.bodies import BodyBudget, BodyThreads
from service.http.cors import allow_origins
from service.http.drain import Drain
from service.http.headers import OneRequestId, SecurityHeaders
from service.http.overload import OverloadRefusal
from service.http.problems import MEDIA_TYPE
from service.http.proxies import ForwardedRequests, handle_last_slashes
from service.http.requests import RequestMiddleware, SoundHead, TraceMiddleware
from service.pictures.workers import PictureWorkers
from service.pool.background import run_in_own_thread
from service.pool.model_pool import ModelPool
from service.pool.readiness import Readiness
from service.pool.state_metrics import ServerState
from service.routes import (
    documentation,
    explain,
    health_and_metrics,
    kserve_v1,
    models,
    open_inference,
    page,
    torchserve,
)
from service.schemas.answers import ProblemDetails
from service.schemas.base import component_schemas, without_null_defaults
from service.schemas.protocols import InferenceRequest, InstancesRequest
from service.schemas.requests import ExplainRequest
from service.settings import Settings
from service.settings.cores import available_cores
from service.telemetry.configuration import configured_tracing
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

# Each router names the scopes that its routes need.
_ROUTERS: tuple[AccessRouter, ...] = (
    explain.router,
    explain.progress_router,
    models.router,
    models.admin_router,
    health_and_metrics.router,
    health_and_metrics.metrics_router,
    documentation.router,
    page.router,
    kserve_v1.router,
    open_inference.router,
    open_inference.health_router,
    torchserve.router,
    torchserve.health_router,
)
# Schemas that FastAPI does not find in routes: bodies that routes parse themselves, and problems.
_SCHEMAS: tuple[type[BaseModel], ...] = (
    ExplainRequest,
    InstancesRequest,
    InferenceRequest,
    ProblemDetails,
)
_DESCRIPTION = (
    "Shows where a vision transformer looked. Send pictures and prompts to `/explain`; get LeGrad "
    "heatmaps, overlays, regions and scores. Errors are RFC 9457 problem details."
)
# Longest wait for the trace collector at shutdown.
_CLOSE_TRACING_SECONDS = 3.0

_log = structlog.get_logger("legrad.service")


def create_app(settings: Settings | None = None, network: Network | None = None) -> FastAPI:
    """Create the application.

    Args:
        settings: the configuration; read from the environment if None.
        network: resolver and connector for pictures by URL; the system's own if None.

    Raises:
        UnknownModelError: a model in the settings does not name its weights.
        InvalidOptionError: the key file cannot be read, or is not valid; or a device does not
            exist, or the devices do not fit together.
    """
    settings = settings or Settings()
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, Route)]
    root = settings.root_path
    if root and any(f"{route.path}/".startswith(f"{root}/") for route in routes):
        raise InvalidOptionError(
            f"LEGRAD_ROOT_PATH={root!r} is a path of this server itself: choose another prefix.",
            field="root_path",
        )
    devices = resolve_devices(settings.device)
    metrics = Metrics(
        (model.id for model in settings.named_models),
        (route.path for route in routes),
        worker_names(devices),
    )
    access = AccessControl(settings.access_policy, metrics)
    drain = Drain(settings.shutdown_delay_seconds, settings.drain_timeout_seconds)
    reporter = AnswerReporter(metrics, settings.slow_request_seconds, drain)
    tracing = configured_tracing()
    # All devices are of one kind.
    batches = settings.batch_policy(devices[0].type)
    pool = ModelPool(settings.model_policy, devices, batches, metrics, tracing)
    workers = PictureWorkers(settings.picture_limits, metrics)
    body_threads = BodyThreads()
    readiness = Readiness(
        pool,
        settings.request_timeout_seconds,
        blockers=(
            drain.readiness_problem,
            workers.readiness_problem,
            body_threads.readiness_problem,
        ),
    )
    metrics.registry.register(
        ServerState(
            pool,
            readiness,
            lambda: workers.pids,
            settings.request_timeout_seconds,
            batches.max_queue_cost,
        )
    )

    url_images = UrlImages(settings.url_policy, metrics, network or SystemNetwork())
    admission = Admission(settings.admission_limits, pool, workers.capacity, metrics)
    explaining = ExplainingService(
        settings.request_limits,
        settings.picture_rules,
        admission,
        pool,
        workers,
        url_images,
        metrics,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # All are of one kind.
        threads = usable_threads(devices[0], available_cores())
        use_threads(settings.compute_threads or threads)
        workers.start()
        pool.start()
        _log.info("started", models=[model.id for model in pool])
        try:
            async with access.watching():
                yield
        finally:
            drained = await pool.close(drain.seconds_left)
            await workers.close()
            body_threads.close()
            explaining.close()
            url_images.close()
            await _close(tracing)
            _log.info("stopped", drained=drained)

    app = FastAPI(
        title="LeGrad",
        version=version("legrad-service"),
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        # The documentation's routes are this service's own.
        openapi_url=None,
        # FastAPI's own spans and logs contain paths, queries and texts of exceptions.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        responses={
            "4XX": {"description": "The request is at fault.", "content": _problem_content()},
            "5XX": {"description": "The server is at fault.", "content": _problem_content()},
        },
    )
    app.state.application = ApplicationState(
        explaining=explaining,
        pool=pool,
        readiness=readiness,
        access=access,
        metrics=metrics,
        tracing=tracing,
        drain=drain,
        body_threads=body_threads,
        routes=routes,
        request_limits=settings.request_limits,
        url_rules=settings.url_policy.rules,
        request_timeout_seconds=settings.request_timeout_seconds,
    )
    for router in _ROUTERS:
        app.include_router(router)
    # The files of Swagger UI, which would otherwise come from a content delivery network.
    app.mount(documentation.STATIC_URL, StaticFiles(packages=[("fastapi_offline", "static")]))
    for kind in (
        LegradError,
        ServiceError,
        BatchingError,
        MemoryError,
        RequestValidationError,
        HTTPException,
    ):
        app.add_exception_handler(kind, answer_error)
    # Innermost first. Each layer adds its headers to the errors of the layers inside it.
    app.add_middleware(
        RequestMiddleware,
        bodies=BodyBudget(settings.body_limits, metrics),
        reporter=reporter,
        drain=drain,
    )
    app.add_middleware(OverloadRefusal, routes=routes, reporter=reporter)
    allow_origins(app, settings.cors_origins, reporter)
    app.add_middleware(SoundHead, reporter=reporter)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(TraceMiddleware, tracing=tracing)
    app.add_middleware(ForwardedRequests, proxies=settings.trusted_proxies, root_path=root)
    handle_last_slashes(app.router)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    # Around middleware that is added later, too.
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: OneRequestId(build())  # type: ignore[method-assign]
    return app


async def _close(tracing: Tracing) -> None:
    """Send the last traces; give up after ``_CLOSE_TRACING_SECONDS``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_TRACING_SECONDS):
            await run_in_own_thread("tracing", tracing.close)


def _problem_content() -> dict[str, Any]:
    return {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the schemas that FastAPI does not find in routes."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            license_info=app.license_info,
            routes=app.routes,
        )
        template = "#/components/schemas/{model}"
        document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
        components = document["components"].setdefault("schemas", {})
        for model in _SCHEMAS:
            for name, schema in component_schemas(model, template).items():
                if components.setdefault(name, schema) != schema:
                    raise ValueError(f"Two schemas of the contract are named {name}: rename one.")
        document["components"]["schemas"] = without_null_defaults(components)
        app.openapi_schema = document
    return app.openapi_schema
