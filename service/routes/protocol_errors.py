"""How other protocols write errors, and which versions of a model they may name."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request

from service.errors import UnknownVersionError
from service.http.problems import Problem, shorten
from service.schemas.protocols import ProtocolError, TorchServeError


def kserve_error(problem: Problem, request_id: str) -> dict[str, Any]:
    """A problem as KServe and Triton write it."""
    return ProtocolError(
        error=shorten(problem.detail),
        code=problem.code,
        field=None if problem.field is None else shorten(problem.field),
        request_id=request_id,
    ).model_dump(exclude_none=True)


def torchserve_error(problem: Problem, request_id: str) -> dict[str, Any]:  # noqa: ARG001
    """A problem as TorchServe writes it."""
    return TorchServeError(
        code=problem.status, type=problem.code, message=shorten(problem.detail)
    ).model_dump()


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
