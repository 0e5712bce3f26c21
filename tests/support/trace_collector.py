"""An OpenTelemetry collector in this process, which keeps the spans that it receives."""

import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_PATIENCE_SECONDS = 60.0


class TraceCollector:
    """A collector of OTLP over HTTP on a free loopback port."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        """The value for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, wanted: Callable[[list[Span]], bool]) -> list[Span]:
        """Wait until the spans are as wanted and return them; fail after a bounded time."""
        with self._changed:
            assert self._changed.wait_for(lambda: wanted(self._spans), _PATIENCE_SECONDS), [
                span.name for span in self._spans
            ]
            return list(self._spans)

    def request_spans(self, trace_id: str) -> list[Span]:
        """Wait for the server span of a trace, which ends last; return all spans of the trace."""

        def ended(spans: list[Span]) -> bool:
            return any(
                span.kind == Span.SPAN_KIND_SERVER for span in spans if in_trace(span, trace_id)
            )

        return [span for span in self.wait_for(ended) if in_trace(span, trace_id)]

    def _keep(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        export = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            self.bodies.append(body)
            for each in export.resource_spans:
                self.resources.append(attributes(each.resource.attributes))
                for scope in each.scope_spans:
                    self._spans += scope.spans
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._keep(self.path, body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def in_trace(span: Span, trace_id: str) -> bool:
    """Return whether a span belongs to the trace with this hexadecimal id."""
    return span.trace_id.hex() == trace_id


def attributes(pairs: "list[KeyValue] | Any") -> dict[str, Any]:
    """Return attributes as a dictionary."""

    def plain(value: AnyValue) -> Any:
        return getattr(value, value.WhichOneof("value") or "string_value")

    return {pair.key: plain(pair.value) for pair in pairs}
