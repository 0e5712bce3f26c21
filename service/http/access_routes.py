"""Routes that check access before they handle a request."""

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
        "description": "An API key of `LEGRAD_API_KEYS` with one of the scopes that the operation "
        "names. A server without keys serves all operations but the admin ones to everyone.",
    }
}
"""``components.securitySchemes`` of the OpenAPI document."""


class AccessRouter(APIRouter):
    """A router whose routes check access.

    Access is checked before the body is read. A request counts for its key until its answer is
    sent, errors included.
    """

    def __init__(
        self, needs: Needs, *, error_form: ErrorForm | None = None, **options: Any
    ) -> None:
        """Create a router.

        Args:
            needs: scopes of its routes; the caller's key must have one of them.
            error_form: writes errors as the routes' protocol does; problem details if None.
            options: options of :class:`fastapi.APIRouter`.
        """
        super().__init__(route_class=_route_class(needs, error_form), **options)


class AccessRoute(APIRoute):
    """A route that requires one of its router's scopes.

    Attributes:
        needs: scopes of the router.
        error_form: writes errors as the route's protocol does; problem details if None.
    """

    needs: Needs
    error_form: ErrorForm | None

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check access, then handle the request."""
        async with application_of(scope["app"]).access.granted(scope, self.needs):
            await super().handle(scope, receive, send)


def _route_class(router_needs: Needs, form: ErrorForm | None) -> type[AccessRoute]:
    # OpenAPI: one entry of the list is enough; an empty entry allows requests without a key.
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
