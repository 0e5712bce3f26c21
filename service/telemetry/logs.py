"""JSON logs: one object a line, on standard error, for the service's own and its libraries'."""

import logging
import sys

import structlog


def configure_logs(level: str) -> None:
    """Sends every log entry of the process through one JSON formatter.

    Args:
        level: least important level that is written, such as ``"info"``.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without the frames' variables: those are the callers' prompts and pictures.
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
    # The request's own log line says more.
    logging.getLogger("uvicorn.access").disabled = True
    # At `debug` it would write the headers of the servers that pictures are fetched from.
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    # It announces every step of building a model through the root logger.
    logging.getLogger("open_clip").setLevel(logging.WARNING)
