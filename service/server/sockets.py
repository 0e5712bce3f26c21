"""Listening sockets: of an address, of a path, or inherited from systemd."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings

_BACKLOG = 2048
# https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
_FIRST_INHERITED = 3
_ADMIN_NAME = "admin"
# As open as a port of 127.0.0.1, to which every local user can connect.
_SOCKET_MODE = 0o666


@dataclass(frozen=True, slots=True)
class Listeners:
    """Open listening sockets.

    Attributes:
        public: the sockets for everyone.
        admin: the socket for operators, or None if there is no other address for them.
    """

    public: list[socket.socket]
    admin: socket.socket | None

    @property
    def all(self) -> list[socket.socket]:
        """Every socket."""
        return self.public if self.admin is None else [*self.public, self.admin]

    def announcements(self) -> Iterator[str]:
        """Yield a line about each socket."""
        for listener in self.public:
            yield f"Listening on {_url(listener)}"
        if self.admin is not None:
            yield f"Admin on {_url(self.admin)}"


def listen_for(settings: Settings) -> tuple[Settings, Listeners]:
    """Open the listening sockets, or take those of systemd.

    Returns:
        The settings with the actual ports, and the sockets.

    Raises:
        OSError: an address cannot be listened on, or an inherited socket cannot be used.
    """
    inherited = _inherited()
    public = [each for name, each in inherited if name != _ADMIN_NAME]
    admin = next((each for name, each in inherited if name == _ADMIN_NAME), None)
    if not public:
        if settings.uds is None:
            public = [listen(settings.host, settings.port)]
        else:
            public = [listen_at(settings.uds)]
    if admin is None and settings.admin_port is not None:
        admin = listen(settings.admin_host or settings.host, settings.admin_port, "LEGRAD_ADMIN_")
    ports = {}
    if (port := _port(public[0])) is not None:
        ports["port"] = port
    if admin is not None:
        ports["admin_port"] = _required_port(admin)
    return settings.model_copy(update=ports), Listeners(public, admin)


def listen(host: str, port: int, prefix: str = "LEGRAD_") -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Args:
        host: a host name or an address.
        port: the port.
        prefix: beginning of the names of the settings, for errors.

    Raises:
        OSError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    # UnicodeError: a name that has no form in the domain name system.
    except (OSError, UnicodeError) as error:
        raise OSError(
            f"{prefix}HOST={host!r}: this host is unknown. Give a name or address of this machine, "
            "such as 127.0.0.1, or 0.0.0.0 for every IPv4 address."
        ) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(
            f"{prefix}HOST={host!r}, {prefix}PORT={port}: cannot listen there: {error.strerror}. "
            f"{_advice(error)}"
        ) from error
    # From here on connections are accepted, and wait until the application has started.
    listener.listen(_BACKLOG)
    return listener


def listen_at(path: Path) -> socket.socket:
    """Open a listening Unix socket, in place of one that an ended server has left behind.

    Raises:
        OSError: the path cannot be listened on, or another server listens there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        path.chmod(_SOCKET_MODE)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise OSError(
            f"LEGRAD_UDS={str(path)!r}: cannot listen there: {reason}. Give a path of at most 100 "
            "characters in a folder that this user may write to, where no other server listens."
        ) from error
    listener.listen(_BACKLOG)
    return listener


def remove(listeners: Listeners, settings: Settings) -> None:
    """Remove the file of a Unix socket that :func:`listen_at` has made."""
    if settings.uds is not None and any(
        _is_unix(each) and each.getsockname() == str(settings.uds) for each in listeners.public
    ):
        settings.uds.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove a socket where nobody listens any more.

    Raises:
        OSError: somebody listens there, or it is no socket.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _inherited() -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd passed to this process, with their names.

    Raises:
        OSError: one of them is not a listening stream socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS") or 0)
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = []
    for position in range(count):
        listener = socket.socket(fileno=_FIRST_INHERITED + position)
        if listener.type != socket.SOCK_STREAM or not _accepts(listener):
            raise OSError(
                f"Socket {position + 1} of {count} from systemd does not listen for streams: use "
                "ListenStream= and Accept=no in its unit."
            )
        # Child processes must not keep the socket open.
        listener.set_inheritable(False)
        found.append((names[position] if position < len(names) else "", listener))
    return found


def _accepts(listener: socket.socket) -> bool:
    return bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.EADDRNOTAVAIL:
            return "Give an address of this machine, or 0.0.0.0 for every IPv4 address."
        case errno.EACCES:
            return "Choose a port above 1023, or give this user the right to lower ones."
    return "Choose another port; 0 picks a free one."


def _is_unix(listener: socket.socket) -> bool:
    return listener.family == socket.AF_UNIX


def _port(listener: socket.socket) -> int | None:
    if _is_unix(listener):
        return None
    port: int = listener.getsockname()[1]
    return port


def _required_port(listener: socket.socket) -> int:
    port = _port(listener)
    if port is None:
        raise OSError(
            "The socket named admin is a Unix socket: the address for operators needs a port."
        )
    return port


def _url(listener: socket.socket) -> str:
    if _is_unix(listener):
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
