"""The application: wiring and lifespan, nothing else."""

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
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Route
from threadpoolctl import threadpool_limits

from legrad_engine import LegradError
from legrad_engine.devices import use_threads
from service.batching import BatchingError
from service.errors import ServiceError
from service.explaining.network import Network, SystemNetwork
from service.explaining.service import ExplainingService
from service.explaining.url_images import UrlImages
from service.http.access import AccessControl
from service.http.access_routes import SECURITY_SCHEMES, AccessRouter
from service.http.answers import Answered
from service.http.cors import allow_origins
from service.http.headers import SecurityHeaders
from service.http.overload import Shedding
from service.http.problems import MEDIA_TYPE, handle
from service.http.requests import RequestScope
from service.http.tracing import TraceScope
from service.pictures.workers import PictureThreads
from service.pool.background import run_alone
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
from service.schemas.base import component_schemas
from service.schemas.protocols import InferenceRequest, InstancesRequest
from service.schemas.requests import ExplainRequest
from service.server.shutdown import Shutdown
from service.settings import Settings
from service.telemetry.configuration import configured_tracing
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

# Each says who may use it; one that does not is no router of this application.
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
# Bodies that a route reads by itself, and errors that a handler answers with.
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
# The last spans of a server are worth a moment, not a supervisor's patience.
_CLOSE_TRACING_SECONDS = 3.0

_log = structlog.get_logger("legrad.service")


def create_app(settings: Settings | None = None, network: Network | None = None) -> FastAPI:
    """The application for these settings, or for those of the environment.

    Args:
        settings: every limit and choice.
        network: where pictures are fetched from; the machine's own if none.

    Raises:
        UnknownModelError: a model in the settings does not say which weights.
        InvalidOptionError: the file of keys cannot be used.
    """
    settings = settings or Settings()
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, Route)]
    metrics = Metrics(
        (reference.id for reference in settings.model_references), (route.path for route in routes)
    )
    access = AccessControl(settings, metrics)
    shutdown = Shutdown(settings.shutdown_delay_seconds, settings.drain_timeout_seconds)
    answered = Answered(metrics, settings, shutdown)
    tracing = configured_tracing()
    pool = ModelPool(settings, metrics, tracing)
    threads = PictureThreads(settings.picture_threads, settings.picture_timeout_seconds)
    readiness = Readiness(pool, threads, shutdown, settings.request_timeout_seconds)
    metrics.registry.register(ServerState(pool, readiness, settings))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.compute_threads is not None:
            use_threads(settings.compute_threads)
        url_images = UrlImages(settings, metrics, network or SystemNetwork())
        app.state.explaining = ExplainingService(pool, threads, url_images, settings, metrics)
        threads.start()
        pool.start()
        _log.info("started", models=[model.id for model in pool])
        try:
            # Maps are enlarged by small products, one on each picture thread. More threads for one
            # gain nothing, and wait for the next product in a loop that keeps a core busy.
            with threadpool_limits(1, user_api="blas"):
                async with access.watching():
                    yield
        finally:
            drained = await pool.close(shutdown.drain_left)
            # Not waited for: one that never ends must not hold the event loop.
            threads.close()
            url_images.close()
            await _close(tracing)
            _log.info("stopped", drained=drained)

    # The files of its documentation page come from this server, not from a delivery network.
    app = FastAPIOffline(
        title="LeGrad",
        version=version("legrad-service"),
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        static_url=documentation.STATIC_URL,
        # FastAPI's own spans and logs hold paths, queries and what exceptions say.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        responses={
            "4XX": {"description": "The request is at fault.", "content": _problem_content()},
            "5XX": {"description": "The server is at fault.", "content": _problem_content()},
        },
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.pool = pool
    app.state.readiness = readiness
    app.state.tracing = tracing
    app.state.access = access
    app.state.routes = routes
    app.state.shutdown = shutdown
    for router in _ROUTERS:
        app.include_router(router)
    for kind in (
        LegradError,
        ServiceError,
        BatchingError,
        RequestValidationError,
        HTTPException,
    ):
        app.add_exception_handler(kind, handle)
    app.add_middleware(
        RequestScope, metrics=metrics, answered=answered, settings=settings, shutdown=shutdown
    )
    app.add_middleware(Shedding, routes=routes, access=access, answered=answered, settings=settings)
    allow_origins(app, settings.cors_origins, answered)
    # The outermost: errors carry its headers too.
    app.add_middleware(SecurityHeaders)
    app.add_middleware(TraceScope, tracing=tracing)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _close(tracing: Tracing) -> None:
    """Gives a collector that does not answer no more time than a stopping server has to spare."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_TRACING_SECONDS):
            await run_alone("tracing", tracing.close)


def _problem_content() -> dict[str, Any]:
    return {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The contract. Bodies that a route reads by itself are added by hand."""
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
            components |= component_schemas(model, template)
        app.openapi_schema = document
    return app.openapi_schema
