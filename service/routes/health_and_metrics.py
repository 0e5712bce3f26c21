"""Health and metrics, for operators and load balancers."""

from fastapi import Request, Response

from service.http.access import METRICS, OPEN
from service.http.access_routes import AccessRouter
from service.http.application import application_of
from service.schemas.answers import Health
from service.schemas.models import ServerHealth
from service.telemetry.metrics import CONTENT_TYPE

router = AccessRouter(needs=OPEN, tags=["operations"])
metrics_router = AccessRouter(needs=METRICS, tags=["operations"])


@router.get("/health/live", summary="Check that the process answers")
async def live() -> Health:
    """Check that the process answers at all. This says nothing about the models."""
    return Health(status="alive")


@router.get("/health/ready", summary="Check the readiness of the server")
async def ready(request: Request) -> ServerHealth:
    """Check that loading at start is over and a request without a model would be answered.

    Fails from the moment in which the server is told to stop.

    Other models may have failed: `/models/{model_id}/ready` checks each. Devices may have failed
    whose work others do: `degraded` lists them.
    """
    readiness = application_of(request.app).readiness
    readiness.require()
    return ServerHealth(status="ready", degraded=readiness.degraded)


@metrics_router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {
            "description": "All metrics in Prometheus' text format.",
            "content": {
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": 'legrad_requests_total{route="/explain",status="200"} 42.0',
                }
            },
        }
    },
)
async def metrics(request: Request) -> Response:
    """Return all metrics in Prometheus' text format."""
    return Response(application_of(request.app).metrics.exposition(), media_type=CONTENT_TYPE)
