"""What operators and their machines ask: health and metrics."""

from fastapi import Request, Response

from service.http.access import METRICS, OPEN
from service.http.access_routes import AccessRouter
from service.http.application import application_of
from service.schemas.answers import Health
from service.telemetry.metrics import CONTENT_TYPE

router = AccessRouter(needs=OPEN, tags=["operations"])
metrics_router = AccessRouter(needs=METRICS, tags=["operations"])


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Whether the process answers")
async def live() -> Health:
    """True as long as the process can answer at all; it says nothing of the models."""
    return Health(status="alive")


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", summary="Whether the server can answer")
async def ready(request: Request) -> Health:
    """True once loading at start is over and a request that names no model would be answered.

    False from the moment in which the server is told to stop.

    Other models may have failed: `/models/{model_id}/ready` tells of each.
    """
    readiness = application_of(request.app).readiness
    readiness.require()
    return Health(status="ready")


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
    """All metrics in Prometheus' text format."""
    return Response(application_of(request.app).metrics.exposition(), media_type=CONTENT_TYPE)
