"""JSON logs on standard error: one object per line, for the service and its libraries."""

import logging
import sys

import structlog


def configure_logs(level: str) -> None:
    """Send every log entry of the process through one JSON formatter.

    Args:
        level: lowest level that is written, such as ``"info"``.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without local variables of the frames: they hold the callers' prompts and images.
        structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        ),
    ]
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
                structlog.processors.JSONRenderer(),
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
