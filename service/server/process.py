"""The server process: listening sockets, signals that start a drain, exit status."""

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
from service.http.application import application_of
from service.http.drain import Drain
from service.server.connections import IDLE_SECONDS, guarded
from service.server.shutdown import ending_in_time
from service.settings import Settings, unknown_variables
from service.settings.proxies import trusted_networks
from service.telemetry.logs import configure_logs

_BACKLOG = 2048

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
        InvalidOptionError: the device in the settings does not exist.
        LegradError: no model in the settings can be loaded; it is the error of the first one.
        OSError: an address cannot be listened on.
    """
    configure_logs(settings.log_level)
    for name, similar in unknown_variables(os.environ).items():
        _log.warning("unknown setting", variable=name, similar=similar)
    resolve_device(settings.device)
    _check_models(settings)
    settings, listeners = listen_for(settings)
    app = create_app(settings)
    drain = application_of(app).drain
    config = server_config(app, settings)
    # Tells the port to callers that asked for any free one.
    for purpose, listener in zip(("Listening", "Admin"), listeners, strict=False):
        print(f"{purpose} on {_url(listener)}", flush=True)
    # Libraries hold hundreds of thousands of objects. A full garbage collection would scan them,
    # stop all threads meanwhile, and free nothing.
    gc.collect()
    gc.freeze()
    with ending_in_time(drain):
        _DrainingServer(config, drain).run(sockets=listeners)
    return drain.exit_status


def listen_for(settings: Settings) -> tuple[Settings, list[socket.socket]]:
    """Open the listening sockets.

    Returns:
        The settings with the actual ports, and the sockets; the admin socket, if any, is last.

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
    """Return the uvicorn configuration that serves the application."""
    return uvicorn.Config(
        app,
        http=guarded(settings.connection_limits, application_of(app).metrics),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_seconds),
        # No proxy is trusted by default; uvicorn would trust every one on this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=trusted_networks(settings.trusted_proxies),
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

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
    # From here on connections are accepted, and wait until the application has started.
    listener.listen(_BACKLOG)
    return listener
