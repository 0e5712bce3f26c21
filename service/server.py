"""Running the application: one listening socket, one exit status, signals that drain."""

import contextlib
import math
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from legrad_engine import LegradError
from legrad_engine.devices import resolve_device
from service.app import create_app
from service.connections import guarded
from service.logs import configure_logs
from service.settings import Settings

_BACKLOG = 2048

_log = structlog.get_logger("legrad.service")


class _DrainingServer(uvicorn.Server):
    """uvicorn's server, except that a signal which was obeyed is not raised again.

    uvicorn ends its own process by the signal after a clean shutdown, so that supervisors see a
    failure where everything was answered.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted and returns.

    Raises:
        InvalidOptionError: the device in the settings does not exist.
        LegradError: no model in the settings can be loaded; the first one's reason.
        OSError: the address cannot be listened on.
    """
    configure_logs(settings.log_level)
    resolve_device(settings.device)
    _check_models(settings)
    listener = listen(settings.host, settings.port)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=guarded(settings, app.state.metrics),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_seconds),
    )
    host, port = listener.getsockname()[:2]
    # For a person or a program that asked for any free port.
    print(f"Listening on http://{host}:{port}", flush=True)
    _DrainingServer(config).run(sockets=[listener])


def _check_models(settings: Settings) -> None:
    """Refuses settings of which no model can be loaded; one of several does not stop the others.

    Raises:
        LegradError: the reason of the first one.
    """
    refusals: dict[str, LegradError] = {}
    for reference in settings.model_references:
        try:
            reference.check()
        except LegradError as error:
            refusals[reference.id] = error
    if len(refusals) == len(settings.model_references):
        raise next(iter(refusals.values()))
    for model, refusal in refusals.items():
        _log.error("model cannot be loaded", model=model, reason=str(refusal))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the address cannot be listened on.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    # From here on nobody is refused: connections wait until the application has started.
    listener.listen(_BACKLOG)
    return listener
