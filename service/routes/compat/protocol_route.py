"""Routes of a protocol that has its own form of errors and of versions."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from service.problems import Problem, UnknownVersionError, describe, shorten
from service.schemas.compat import ProtocolError


def route_class(form: Callable[[Problem, str], dict[str, Any]]) -> type[APIRoute]:
    """Routes that answer expected errors in a form of their own.

    Args:
        form: makes a problem, and the id of its request, into the body of the answer.
    """

    class ProtocolRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    return await handle(request)
                except Exception as error:
                    problem = describe(error)
                    if problem is None:
                        raise
                    request.state.problem = problem.code
                    return JSONResponse(
                        form(problem, request.state.request_id),
                        problem.status,
                        headers=dict(problem.headers),
                    )

            return answer

    return ProtocolRoute


def kserve_error(problem: Problem, request_id: str) -> dict[str, Any]:
    """A problem as KServe and Triton write it."""
    return ProtocolError(
        error=shorten(problem.detail),
        code=problem.code,
        field=None if problem.field is None else shorten(problem.field),
        request_id=request_id,
    ).model_dump(exclude_none=True)


def only_version(version: str) -> Callable[[Request], Awaitable[None]]:
    """Lets requests pass that name this version of a model, or none.

    Raises:
        UnknownVersionError: they name another.
    """

    async def check(request: Request) -> None:
        given = request.path_params.get("version", version)
        if given != version:
            raise UnknownVersionError(
                f"Models have one version, {version!r}, not {given!r}: leave it out.",
                field="version",
            )

    return check
