"""What is traced, whoever collects it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NewType, Protocol

SpanLink = NewType("SpanLink", object)
"""Stands for a request's span; only the implementation that made it looks inside."""


class RequestTrace(Protocol):
    """The span of one request."""

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits, or None where nothing is traced."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers by which the caller finds the trace."""

    def answered(self, route: str | None, status: int, problem: str | None) -> None:
        """Notes how it went.

        Args:
            route: the path's template, or None where none matched.
            status: the HTTP status, or 499 where the client has left.
            problem: code of the problem, if it is one.
        """


class Tracing(Protocol):
    """Makes spans. None of them ever holds a prompt, a picture, an address or an exception's text.

    Every method can be called on any thread.
    """

    def request(
        self, method: str, scheme: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[RequestTrace]:
        """A request's span, continuing the caller's trace; the current one within the context."""

    def stage(self, name: str, seconds: float, *, ago: float = 0.0) -> None:
        """Adds a stage to the current span, which ended so many seconds ago."""

    def link(self) -> SpanLink | None:
        """The current span, for a batch that works for it; None where it is not recorded."""

    def batch(self, model: str, links: Sequence[SpanLink | None]) -> AbstractContextManager[None]:
        """The span of a batch, with a link to each request that it works for, one for each item.

        It is recorded where one of them is.
        """

    def close(self) -> None:
        """Sends what is left, and stops. To be called once; it may take long."""


class Untraced:
    """The request that nobody traces."""

    trace_id: str | None = None
    headers: Mapping[str, str] = {}

    def answered(self, route: str | None, status: int, problem: str | None) -> None:
        """Ignores it."""


class SilentTracing:
    """The tracing that records nothing."""

    def request(
        self,
        method: str,  # noqa: ARG002
        scheme: str,  # noqa: ARG002
        headers: Mapping[str, str],  # noqa: ARG002
    ) -> AbstractContextManager[RequestTrace]:
        """Ignores it."""
        return nullcontext(Untraced())

    def stage(self, name: str, seconds: float, *, ago: float = 0.0) -> None:
        """Ignores it."""

    def link(self) -> SpanLink | None:
        """Nothing to link to."""
        return None

    def batch(
        self,
        model: str,  # noqa: ARG002
        links: Sequence[SpanLink | None],  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Ignores it."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is left."""
