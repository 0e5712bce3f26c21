"""The interface of tracing, independent of OpenTelemetry, and its silent implementation."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NewType, Protocol

SpanLink = NewType("SpanLink", object)
"""Opaque reference to a request's span; only the implementation that made it reads it."""


class RequestTrace(Protocol):
    """The span of one request."""

    @property
    def trace_id(self) -> str | None:
        """Trace id, 32 hexadecimal digits; None without tracing."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers that identify the trace to the caller."""

    def answered(self, route: str | None, status: int, problem: str | None) -> None:
        """Record the outcome.

        Args:
            route: the path's template, or None if no route matched.
            status: the HTTP status, or 499 if the client has disconnected.
            problem: code of the problem, if the response is an error.
        """


class Tracing(Protocol):
    """Creates spans. No span holds a prompt, an image, an address or the text of an exception.

    All methods are thread-safe.
    """

    def request(
        self, method: str, scheme: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[RequestTrace]:
        """Open a request's span, which continues the caller's trace, and make it current."""

    def stage(self, name: str, seconds: float, *, ago: float = 0.0) -> None:
        """Add to the current span a stage that ended ``ago`` seconds ago."""

    def link(self) -> SpanLink | None:
        """Return the current span, for batches to link to; None if it is not recorded."""

    def batch(
        self, model: str, links: Sequence[SpanLink | None], age: float
    ) -> AbstractContextManager[None]:
        """Open the span of a batch, with links to the requests of its items.

        It is recorded if one of those requests is.

        Args:
            model: the model's id.
            links: the span of each item's request.
            age: seconds since the batch began.
        """

    def close(self) -> None:
        """Send the remaining spans and stop. Call it once; it may block for seconds."""


class Untraced:
    """The span of a request without tracing."""

    trace_id: str | None = None
    headers: Mapping[str, str] = {}

    def answered(self, route: str | None, status: int, problem: str | None) -> None:
        """Do nothing."""


class SilentTracing:
    """Tracing that records nothing."""

    def request(
        self,
        method: str,  # noqa: ARG002
        scheme: str,  # noqa: ARG002
        headers: Mapping[str, str],  # noqa: ARG002
    ) -> AbstractContextManager[RequestTrace]:
        """Return an untraced request."""
        return nullcontext(Untraced())

    def stage(self, name: str, seconds: float, *, ago: float = 0.0) -> None:
        """Do nothing."""

    def link(self) -> SpanLink | None:
        """Return None."""
        return None

    def batch(
        self,
        model: str,  # noqa: ARG002
        links: Sequence[SpanLink | None],  # noqa: ARG002
        age: float,  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing."""
