"""Logs on standard error, of the service and its libraries: JSON, or text on a terminal."""

import atexit
import logging
import sys
import threading
from functools import partial
from typing import Literal

import structlog

from service.telemetry.log_queue import LogQueue, cut_json, cut_text

# For the last lines before the process ends, if their reader has stopped reading.
_END_SECONDS = 1.0


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
    handler = LogQueue(sys.stderr.fileno(), cut=cut_text if is_text else cut_json)
    atexit.register(handler.wait_until_written, _END_SECONDS)
    # The service's own entries go straight to the queue: on the way through `logging`, the line of
    # each request would take three times as long.
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=partial(_QueueLogger, handler),
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        cache_logger_on_first_use=True,
    )
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
    # Python would write to standard error itself, and wait for the reader.
    threading.excepthook = _log_failed_thread
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # The service's own line about each request holds more.
    logging.getLogger("uvicorn.access").disabled = True
    # At `debug` httpcore logs the response headers of the servers that images are fetched from.
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    # open_clip logs every step of building a model at `info`.
    logging.getLogger("open_clip").setLevel(logging.WARNING)


class _QueueLogger:
    """Logger of structlog that queues rendered lines; the name is read by ``add_logger_name``."""

    def __init__(self, lines: LogQueue, name: str) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = lines.put


def dropped_lines() -> int:
    """Count the lines that were dropped because nobody reads them, or no disk holds them."""
    return sum(handler.dropped for handler in _queues())


def write_last_lines() -> None:
    """Wait until the log is written, but not for a reader that has stopped reading."""
    for handler in _queues():
        handler.wait_until_written(_END_SECONDS)


def _queues() -> list[LogQueue]:
    return [each for each in logging.getLogger().handlers if isinstance(each, LogQueue)]


def _log_failed_thread(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is None or failure.exc_type is SystemExit:
        return
    name = None if failure.thread is None else failure.thread.name
    structlog.get_logger("legrad.service").error(
        "thread failed", thread=name, exc_info=failure.exc_value
    )
