"""Errors in the forms of other protocols, and the check of a model's version."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request

from service.errors import UnknownVersionError
from service.http.problems import Problem, shorten
from service.schemas.protocols import ProtocolError, TorchServeError


def kserve_error(problem: Problem, request_id: str) -> dict[str, Any]:
    """Return a problem in the form of KServe and Triton."""
    return ProtocolError(
        error=shorten(problem.detail),
        code=problem.code,
        field=None if problem.field is None else shorten(problem.field),
        request_id=request_id,
    ).model_dump(exclude_none=True)


def torchserve_error(problem: Problem, request_id: str) -> dict[str, Any]:  # noqa: ARG001
    """Return a problem in the form of TorchServe."""
    return TorchServeError(
        code=problem.status, type=problem.code, message=shorten(problem.detail)
    ).model_dump()


def only_version(version: str) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that refuses requests for any other version of a model.

    The dependency raises an :class:`UnknownVersionError`.
    """

    async def check(request: Request) -> None:
        given = request.path_params.get("version", version)
        if given != version:
            raise UnknownVersionError(
                f"Models have one version, {version!r}, not {given!r}: leave it out.",
                field="version",
            )

    return check
