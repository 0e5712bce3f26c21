"""Routes that check access and the query before they handle a request."""

import inspect
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from difflib import get_close_matches
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service.http.access import Needs
from service.http.application import application_of
from service.http.problems import ErrorForm, invalid

SCHEME = "ApiKey"

ENCODED_SLASH = "%2F"
"""A slash in a segment of a path, as :func:`with_encoded_slashes` leaves it."""

_LONGEST_NAME = 64
# The longest target has room for 30 000. Parsing them would hold the event loop.
_MOST_PARAMETERS = 1000
# Every route decodes the path again to match it.
_MOST_PATHS_KEPT = 64

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
    """A router whose routes check access and the query, and answer HEAD wherever they answer GET.

    Access is checked before the body is read. A request counts for its key until its answer is
    sent, errors included.
    """

    def __init__(
        self,
        needs: Needs,
        *,
        error_form: ErrorForm | None = None,
        any_query: bool = False,
        **options: Any,
    ) -> None:
        """Create a router.

        Args:
            needs: scopes of its routes; the caller's key must have one of them.
            error_form: writes errors as the routes' protocol does; problem details if None.
            any_query: whether query parameters that the contract does not name are accepted: by
                pages, whose links carry such parameters, and by routes that check them themselves.
            options: options of :class:`fastapi.APIRouter`.
        """
        super().__init__(
            route_class=_route_class(needs, error_form, any_query),
            # The other protocols have operations of the same names.
            generate_unique_id_function=_operation_names(with_tags=error_form is not None),
            **options,
        )

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route; a route for GET also answers HEAD, which the contract does not repeat."""
        super().add_api_route(path, endpoint, **options)
        if "GET" in (options.get("methods") or ()):
            head = {**options, "methods": ["HEAD"], "include_in_schema": False}
            super().add_api_route(path, endpoint, **head)


class AccessRoute(APIRoute):
    """A route that requires one of its router's scopes.

    Attributes:
        needs: scopes of the router.
        error_form: writes errors as the route's protocol does; problem details if None.
        any_query: whether query parameters that the contract does not name are accepted.
    """

    needs: Needs
    error_form: ErrorForm | None
    any_query: bool

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a request's path, in which an encoded slash separates no segments."""
        return super().matches(with_encoded_slashes(scope))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check access and the query, then handle the request."""
        async with application_of(scope["app"]).access.granted(scope, self.needs):
            # Another method is answered by 405, whatever its query.
            if scope["query_string"] and scope["method"] in (self.methods or ()):
                self._check_query(scope["query_string"])
            await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint itself if it reads the request and makes the response on its own.

        FastAPI's handler would look for parameters and a body to validate, and find none.
        """
        endpoint = self.endpoint
        parameters = inspect.signature(endpoint).parameters.values()
        plain = [each.annotation for each in parameters] == [Request]
        if plain and inspect.iscoroutinefunction(endpoint) and not self.dependencies:
            returned = inspect.signature(endpoint).return_annotation
            if isinstance(returned, type) and issubclass(returned, Response):
                return endpoint
        return super().get_route_handler()

    def _check_query(self, query: bytes) -> None:
        """Refuse too many parameters, and those that would be ignored.

        Raises:
            RequestValidationError: there are too many; or one is unknown, or there twice.
        """
        if query.count(b"&") >= _MOST_PARAMETERS:
            raise invalid(
                f"It has more than {_MOST_PARAMETERS} parameters: send the fields in the body.",
                "query",
            )
        if self.any_query:
            return
        known = [parameter.alias for parameter in self.dependant.query_params]
        given = Counter(name for name, _ in QueryParams(query).multi_items())
        for name, count in given.items():
            if name not in known:
                raise invalid(
                    f"There is no such query parameter{self._hint(name, known)}", "query", name
                )
            if count > 1:
                raise invalid("It appears more than once: write it once.", "query", name)

    def _hint(self, name: str, known: list[str]) -> str:
        # A much longer name resembles none of them, and would take long to compare.
        similar = get_close_matches(name, known, 1) if len(name) <= _LONGEST_NAME else []
        if similar:
            return f": is it {similar[0]!r}?"
        if known:
            return f"; there is {', '.join(known)}."
        if "requestBody" in (self.openapi_extra or {}):
            return ": this operation reads its fields from the body."
        return ": this operation has none."


def _operation_names(*, with_tags: bool) -> Callable[[APIRoute], str]:
    """Return a function that names the operation of a route in generated clients."""

    def name(route: APIRoute) -> str:
        parts = [str(tag).lower() for tag in route.tags] if with_tags else []
        parts.append(route.name)
        if "{version}" in route.path:
            parts.append("version")
        if route.methods == {"PUT"}:
            parts.append("put")
        return "_".join(re.sub(r"\W+", "_", part) for part in parts)

    return name


def with_encoded_slashes(scope: Scope) -> Scope:
    """Return the scope with ``%2F`` in its path where the request's target has it.

    ASGI servers decode the path, so that a slash in the name of a model would separate segments.
    """
    target: bytes = scope.get("raw_path") or b""
    if b"%2f" not in target.lower():
        return scope
    return {**scope, "path": _decoded(target)}


@lru_cache(_MOST_PATHS_KEPT)
def _decoded(target: bytes) -> str:
    segments = target.decode("latin-1").split("/")
    return "/".join(unquote(segment).replace("/", ENCODED_SLASH) for segment in segments)


def _route_class(
    router_needs: Needs, form: ErrorForm | None, router_any_query: bool
) -> type[AccessRoute]:
    # OpenAPI: one entry of the list is enough; an empty entry allows requests without a key.
    security: list[dict[str, list[str]]] = [{SCHEME: [scope]} for scope in sorted(router_needs)]
    if router_needs != {"admin"}:
        security.append({})

    class Route(AccessRoute):
        needs = router_needs
        any_query = router_any_query
        # A plain function in a class would become a method.
        error_form = None if form is None else staticmethod(form)

        def __init__(self, *args: Any, openapi_extra: Any = None, **options: Any) -> None:
            if router_needs:
                openapi_extra = (openapi_extra or {}) | {"security": security}
            super().__init__(*args, openapi_extra=openapi_extra, **options)

    return Route
