"""The server process: listening sockets, signals that start a drain, exit status."""

import contextlib
import gc
import math
import os
import signal
from collections.abc import Iterator
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from legrad_engine import LegradError
from legrad_engine.devices import resolve_devices
from service.app import create_app
from service.http.application import application_of
from service.http.drain import Drain
from service.server.connections import guarded
from service.server.descriptors import possible_connections, reserved_descriptors
from service.server.shutdown import ending_in_time
from service.server.sockets import listen_for, remove
from service.settings import Settings, unknown_variables
from service.telemetry.logs import configure_logs, write_last_lines

_log = structlog.get_logger("legrad.service")


class _DrainingServer(uvicorn.Server):
    """uvicorn's server, but it serves on for a delay after a signal and does not raise it again.

    After a clean shutdown uvicorn kills its own process with the signal, which supervisors report
    as a failure although every request was answered.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A second signal ends the delay.
        if not self._drain.announce() or not self._drain.delay_left:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= self._drain.announced and not self._drain.delay_left
        return await super().on_tick(counter)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then answer the accepted requests and return.

    The process ends a few seconds after the settings' delay and drain timeout, even if threads
    still run.

    Returns:
        The exit status: 0 if every accepted request was answered.

    Raises:
        InvalidOptionError: a device in the settings does not exist, or they do not fit together.
        LegradError: no model in the settings can be loaded; it is the error of the first one.
        OSError: an address cannot be listened on.
    """
    configure_logs(settings.log_level, settings.log_format)
    for name, similar in unknown_variables(os.environ).items():
        _log.warning("unknown setting", variable=name, similar=similar)
    resolve_devices(settings.device)
    _check_models(settings)
    settings, listeners = listen_for(settings)
    possible = possible_connections(settings.max_connections, reserved_descriptors(settings))
    settings = settings.model_copy(update={"max_connections": possible})
    app = create_app(settings)
    drain = application_of(app).drain
    config = server_config(app, settings)
    # Tells the port to callers that asked for any free one.
    for line in listeners.announcements():
        print(line, flush=True)
    # Libraries hold hundreds of thousands of objects. A full garbage collection would scan them,
    # stop all threads meanwhile, and free nothing.
    gc.collect()
    gc.freeze()
    with ending_in_time(drain):
        _DrainingServer(config, drain).run(sockets=listeners.all)
    remove(listeners, settings)
    write_last_lines()
    return drain.exit_status


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return the uvicorn configuration that serves the application."""
    return uvicorn.Config(
        app,
        http=guarded(settings.connection_limits, application_of(app).metrics),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Annotated as whole seconds, but given to a timer of the event loop.
        timeout_keep_alive=settings.idle_timeout_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_seconds),
        # The application itself reads the headers of trusted proxies.
        proxy_headers=False,
    )


def _check_models(settings: Settings) -> None:
    """Check that at least one model can be loaded, and log each one that cannot.

    Raises:
        LegradError: no model can be loaded; it is the error of the first one.
    """
    refusals: dict[str, LegradError] = {}
    for model in settings.named_models:
        try:
            model.reference.check()
        except LegradError as error:
            refusals[model.id] = error
    if len(refusals) == len(settings.named_models):
        raise next(iter(refusals.values()))
    for refused, refusal in refusals.items():
        _log.error("model cannot be loaded", model=refused, reason=str(refusal))
