"""File descriptors of the process: how many connections they are enough for."""

import resource
from pathlib import Path

import structlog

from service.settings import Settings

# Models being loaded, the log, and all else that is neither of these.
_BESIDE = 40
# Of a picture process, in the server.
_OF_PROCESS = 2
# A connection, and a look-up: one that hangs outlives its fetch.
_OF_FETCH = 2

_LEAST_CONNECTIONS = 8
_UNLIMITED = resource.RLIM_INFINITY

_log = structlog.get_logger("legrad.service")


def reserved_descriptors(settings: Settings) -> int:
    """Return how many descriptors may be opened beside those of connections."""
    fetches = settings.url_max_fetches if settings.url_hosts else 0
    return _BESIDE + _OF_PROCESS * settings.picture_limits.processes + _OF_FETCH * fetches


def possible_connections(wanted: int, reserve: int) -> int:
    """Return how many connections the process may have; warn if it is fewer than wanted.

    Raises the process's own limit on descriptors as far as it may. Without free descriptors the
    event loop would close new connections without a word, instead of idle ones.

    Args:
        wanted: most open connections by the settings.
        reserve: descriptors that may be opened beside those of connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _open_descriptors() + reserve
    if soft != _UNLIMITED and soft < needed:
        soft = needed if hard == _UNLIMITED else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == _UNLIMITED or soft >= needed:
        return wanted
    possible = max(_LEAST_CONNECTIONS, wanted - (needed - soft))
    _log.warning(
        "too few file descriptors",
        limit=soft,
        needed=needed,
        max_connections=possible,
        remedy="raise the limit (ulimit -n), or lower LEGRAD_MAX_CONNECTIONS",
    )
    return possible


def _open_descriptors() -> int:
    listing = Path("/proc/self/fd")
    return sum(1 for _ in listing.iterdir()) if listing.exists() else _BESIDE
