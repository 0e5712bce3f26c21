"""Chooses the tracing by OpenTelemetry's own environment variables."""

import os

import structlog

from service.telemetry.tracing import SilentTracing, Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_log = structlog.get_logger("legrad.telemetry")


def configured_tracing() -> Tracing:
    """Return an exporter to the collector that the environment names, or a silent one.

    OpenTelemetry is imported only if the environment names a collector.
    """
    if not _is_configured():
        return SilentTracing()
    try:
        from service.telemetry.open_telemetry import OpenTelemetryTracing
    except ImportError as error:
        _log.warning(
            "traces are not exported: pip install 'legrad-service[telemetry]'", missing=error.name
        )
        return SilentTracing()
    return OpenTelemetryTracing()


def _is_configured() -> bool:
    if _variable("OTEL_SDK_DISABLED").lower() == "true":
        return False
    exporter = _variable("OTEL_TRACES_EXPORTER")
    if exporter not in ("", "otlp"):
        if exporter != "none":
            _log.warning("traces are exported by OTLP only", OTEL_TRACES_EXPORTER=exporter)
        return False
    return exporter == "otlp" or any(_variable(name) for name in _ENDPOINTS)


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()
