"""Logs on standard error, of the service and its libraries: JSON, or text on a terminal."""

import logging
import sys
from typing import Literal

import structlog


def configure_logs(level: str, form: Literal["auto", "json", "text"] = "auto") -> None:
    """Send every log entry of the process through one formatter.

    Args:
        level: lowest level that is written, such as ``"info"``.
        form: ``"json"``, one object per line; ``"text"``, for people; ``"auto"``: text if standard
            error is a terminal, else JSON.
    """
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]
    if is_text:
        shared.append(structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False))
        renderer: structlog.types.Processor = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # Without local variables of the frames: they hold the callers' prompts and images.
            exception_formatter=structlog.dev.plain_traceback,
        )
    else:
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        shared.append(
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            )
        )
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # The service's own line about each request holds more.
    logging.getLogger("uvicorn.access").disabled = True
    # At `debug` httpcore logs the response headers of the servers that images are fetched from.
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    # open_clip logs every step of building a model at `info`.
    logging.getLogger("open_clip").setLevel(logging.WARNING)
