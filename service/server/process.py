"""Running the application: its listening sockets, one exit status, signals that drain."""

import contextlib
import gc
import math
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from legrad_engine import LegradError
from legrad_engine.devices import resolve_device
from service.app import create_app
from service.server.connections import IDLE_SECONDS, guarded
from service.server.shutdown import Shutdown
from service.settings import Settings, unknown_variables
from service.settings.proxies import trusted_networks
from service.telemetry.logs import configure_logs

_BACKLOG = 2048

_log = structlog.get_logger("legrad.service")


class _DrainingServer(uvicorn.Server):
    """uvicorn's server, which goes on for a while after a signal, and does not raise it again.

    uvicorn ends its own process by the signal after a clean shutdown, so that supervisors see a
    failure where everything was answered.
    """

    def __init__(self, config: uvicorn.Config, shutdown: Shutdown) -> None:
        super().__init__(config)
        self._shutdown = shutdown

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
        # A second signal does not wait for the delay.
        if not self._shutdown.announce() or not self._shutdown.delay_left:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= self._shutdown.announced and not self._shutdown.delay_left
        return await super().on_tick(counter)


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT, then answers what was accepted and returns.

    After the settings' delay and drain timeout, and a few seconds more, the process ends, whatever
    still runs in it.

    Returns:
        The exit status: 0 if everything accepted was answered.

    Raises:
        InvalidOptionError: the device in the settings does not exist.
        LegradError: no model in the settings can be loaded; the first one's reason.
        OSError: an address cannot be listened on.
    """
    configure_logs(settings.log_level)
    for name, similar in unknown_variables(os.environ).items():
        _log.warning("unknown setting", variable=name, similar=similar)
    resolve_device(settings.device)
    _check_models(settings)
    settings, listeners = listen_for(settings)
    app = create_app(settings)
    shutdown: Shutdown = app.state.shutdown
    config = server_config(app, settings)
    # For a person or a program that asked for any free port.
    for purpose, listener in zip(("Listening", "Admin"), listeners, strict=False):
        print(f"{purpose} on {_url(listener)}", flush=True)
    # Hundreds of thousands of objects of libraries: looking through them for garbage halts all
    # threads for as long as it takes, and finds none.
    gc.collect()
    gc.freeze()
    with shutdown.ending_in_time():
        _DrainingServer(config, shutdown).run(sockets=listeners)
    return shutdown.exit_status


def listen_for(settings: Settings) -> tuple[Settings, list[socket.socket]]:
    """The listening sockets, the admin one last if there is one.

    Returns:
        the settings with the ports that were taken, and the sockets.

    Raises:
        OSError: an address cannot be listened on.
    """
    listeners = [listen(settings.host, settings.port)]
    ports = {"port": listeners[0].getsockname()[1]}
    if settings.admin_port is not None:
        listeners.append(listen(settings.admin_host or settings.host, settings.admin_port))
        ports["admin_port"] = listeners[1].getsockname()[1]
    return settings.model_copy(update=ports), listeners


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=guarded(settings, app.state.metrics),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_seconds),
        # Nobody is believed by default: uvicorn would believe everything on this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=trusted_networks(settings.trusted_proxies),
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another port; 0 picks "
            "a free one."
        ) from error
    # From here on nobody is refused: connections wait until the application has started.
    listener.listen(_BACKLOG)
    return listener
