"""OpenTelemetry traces, exported by OTLP over HTTP. Needs the extra ``telemetry``."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.url_attributes import URL_SCHEME
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.telemetry.tracing import RequestTrace, SpanLink

_SCOPE = "legrad-service"
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)
_OTHER_METHOD = "_OTHER"
_NANOSECONDS = 1_000_000_000
# A traceparent has 55 characters, and every vendor passes on a tracestate of 512
# (https://www.w3.org/TR/trace-context). They are parsed on the event loop.
_LONGEST_HEADER = 512


class OpenTelemetryTracing:
    """Implements :class:`service.telemetry.tracing.Tracing`, configured by ``OTEL_*`` alone."""

    def __init__(self) -> None:
        # At `warning` it would quote a caller's tracestate that is not valid.
        logging.getLogger(trace.TraceState.__module__).setLevel(logging.ERROR)
        # Names from the environment take precedence over ours.
        own = {SERVICE_NAME: _SCOPE, SERVICE_VERSION: version(_SCOPE)}
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        requests = TracerProvider(resource=resource, shutdown_on_exit=False)
        # Only requests are sampled. Stages follow their request. A batch starts a trace of its own,
        # which the configured sampler would sample independently of the batch's requests.
        within = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        for provider in (requests, within):
            provider.add_span_processor(self._processor)
        self._requests = requests.get_tracer(_SCOPE, version(_SCOPE))
        self._within = within.get_tracer(_SCOPE, version(_SCOPE))

    @contextmanager
    def request(
        self, method: str, scheme: str, headers: Mapping[str, str]
    ) -> Iterator[RequestTrace]:
        """Open a server span by the semantic conventions, without the path: callers choose it."""
        known = method if method in _METHODS else _OTHER_METHOD
        span = self._requests.start_span(
            "HTTP" if known is _OTHER_METHOD else known,
            context=_context_of(headers),
            kind=trace.SpanKind.SERVER,
            attributes={HTTP_REQUEST_METHOD: known, URL_SCHEME: scheme},
        )
        # The text of an exception may quote the request.
        with trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            yield _Request(span, known)

    def stage(self, name: str, seconds: float, *, ago: float = 0.0) -> None:
        """Add a child to the current span."""
        if not trace.get_current_span().is_recording():
            return
        ended = time.time_ns() - round(ago * _NANOSECONDS)
        span = self._within.start_span(name, start_time=ended - round(seconds * _NANOSECONDS))
        span.end(ended)

    def link(self) -> SpanLink | None:
        """Return the current span's context."""
        span = trace.get_current_span()
        return cast(SpanLink, span.get_span_context()) if span.is_recording() else None

    @contextmanager
    def batch(self, model: str, links: Sequence[SpanLink | None], age: float) -> Iterator[None]:
        """Open a span in a new trace."""
        contexts = [cast(trace.SpanContext, link) for link in links if link is not None]
        if not contexts:
            yield
            return
        # One link per request, even if it has several images in the batch.
        requests = {each.span_id: each for each in contexts}
        span = self._within.start_span(
            "batch",
            context=Context(),
            start_time=time.time_ns() - round(age * _NANOSECONDS),
            links=[trace.Link(each) for each in requests.values()],
            attributes={"legrad.model": model, "legrad.batch.size": len(links)},
        )
        with trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            except Exception as error:
                span.set_status(trace.StatusCode.ERROR)
                span.set_attribute(ERROR_TYPE, type(error).__qualname__)
                raise

    def close(self) -> None:
        """Export the remaining spans; takes up to 30 s if the collector does not answer."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _context_of(headers: Mapping[str, str]) -> Context:
    """Return the caller's trace.

    No other header is read: the service has no use for baggage, and its parser takes quadratic time
    and logs what it does not understand.
    """
    given = {name: headers.get(name, "") for name in ("traceparent", "tracestate")}
    carrier = {name: text for name, text in given.items() if 0 < len(text) <= _LONGEST_HEADER}
    return TraceContextTextMapPropagator().extract(carrier)


class _Request:
    def __init__(self, span: trace.Span, method: str) -> None:
        self._span = span
        self._method = method

    @property
    def trace_id(self) -> str:
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    @property
    def headers(self) -> Mapping[str, str]:
        # A draft next to https://www.w3.org/TR/trace-context-2, in the form of traceparent.
        context = self._span.get_span_context()
        span_id = trace.format_span_id(context.span_id)
        return {"traceresponse": f"00-{self.trace_id}-{span_id}-{context.trace_flags:02x}"}

    def answered(self, route: str | None, status: int, problem: str | None) -> None:
        span = self._span
        if route is not None:
            span.set_attribute(HTTP_ROUTE, route)
            if self._method is not _OTHER_METHOD:
                span.update_name(f"{self._method} {route}")
        span.set_attribute(HTTP_RESPONSE_STATUS_CODE, status)
        if problem is not None or status >= 500:
            span.set_attribute(ERROR_TYPE, problem or str(status))
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
