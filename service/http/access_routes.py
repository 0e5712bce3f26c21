"""Routes that name the scopes they need."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.http.access import Needs
from service.http.application import application_of
from service.http.problems import ErrorForm

SCHEME = "ApiKey"
SECURITY_SCHEMES: dict[str, Any] = {
    SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `LEGRAD_API_KEYS` with the scope that the operation names. A "
        "server without keys answers everything but admin operations to everyone.",
    }
}
"""For the contract's ``components``."""


class AccessRouter(APIRouter):
    """A router that must name the scopes its routes need.

    The check comes before the body is read. The request counts for its key until its answer is
    sent, whatever the kind of answer.
    """

    def __init__(
        self, needs: Needs, *, error_form: ErrorForm | None = None, **options: Any
    ) -> None:
        """Make a router.

        Args:
            needs: the scopes of which a caller's key must have one.
            error_form: form of errors in its protocol; problem details if None.
            options: those of :class:`fastapi.APIRouter`.
        """
        super().__init__(route_class=_route_class(needs, error_form), **options)


class AccessRoute(APIRoute):
    """A route that is held to the needs of its router."""

    needs: Needs
    error_form: ErrorForm | None

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, if the request is granted access."""
        async with application_of(scope["app"]).access.granted(scope, self.needs):
            await super().handle(scope, receive, send)


def _route_class(router_needs: Needs, form: ErrorForm | None) -> type[AccessRoute]:
    # One of these is enough. A server without keys needs none, except for admin routes.
    security: list[dict[str, list[str]]] = [{SCHEME: [scope]} for scope in sorted(router_needs)]
    if router_needs != {"admin"}:
        security.append({})

    class Route(AccessRoute):
        needs = router_needs
        # A plain function in a class would become a method.
        error_form = None if form is None else staticmethod(form)

        def __init__(self, *args: Any, openapi_extra: Any = None, **options: Any) -> None:
            if router_needs:
                openapi_extra = (openapi_extra or {}) | {"security": security}
            super().__init__(*args, openapi_extra=openapi_extra, **options)

    return Route
