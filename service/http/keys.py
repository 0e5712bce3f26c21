"""API keys of a running server: look-up, reloading of the key file, limits of each key."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiolimiter import AsyncLimiter

from legrad_engine.errors import InvalidOptionError
from service.errors import KeyConcurrencyError, KeyCostError, KeyRateError, LimitExceededError
from service.pool.background import run_in_own_thread
from service.settings.keys import ApiKey, digest, read_keys

_CHECK_SECONDS = 1.0
_LARGEST_FILE = 1_000_000

_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
# Weight of the latest request in the moving average of durations.
_WEIGHT = 0.2

_log = structlog.get_logger("legrad.access")


class KeyRing:
    """The valid keys of a server."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self.replace(keys)

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """Replace all valid keys."""
        self._entries = tuple((bytes.fromhex(key.sha256), key) for key in keys)

    def find(self, given: bytes) -> ApiKey | None:
        """Return the entry of a key, or None, in a time that does not depend on the key."""
        sent = digest(given)
        found = None
        for stored, key in self._entries:
            if hmac.compare_digest(sent, stored):
                found = key
        return found


class KeyFile:
    """A key file, reloaded when its content changes.

    The content is compared, not its time stamp: a mounted secret changes by a swapped symbolic
    link.
    """

    def __init__(self, path: Path, ring: KeyRing, broken: Callable[[bool], None]) -> None:
        """Read the file.

        Args:
            path: a JSON list of keys.
            ring: receives the keys.
            broken: called with True if the file cannot be used now, else with False.

        Raises:
            InvalidOptionError: the file cannot be read, or is not a list of keys.
        """
        self._path = path
        self._ring = ring
        self._broken = broken
        self._content = self._read()
        ring.replace(self._parse(self._content))

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Apply changes of the file within seconds, until the context ends."""
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _watch(self) -> None:
        complaint = None
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                # Not on a thread of a pool: its work would delay that a key is revoked.
                content = await run_in_own_thread("key-file", self._read)
                if content != self._content:
                    keys = self._parse(content)
                    self._ring.replace(keys)
                    self._content = content
                    _log.info("keys reloaded", keys=[key.name for key in keys])
                complaint = None
            # Any error: if the watcher ended, keys could not be revoked any more.
            except Exception as error:
                # Logged once for each state of the file, not every second.
                if str(error) != complaint:
                    complaint = str(error)
                    _log.error("keys not reloaded, the previous keys stay valid", reason=complaint)
            self._broken(complaint is not None)

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                content = file.read(_LARGEST_FILE + 1)
        except OSError as error:
            raise InvalidOptionError(
                f"LEGRAD_API_KEYS_FILE {self._path} cannot be read: {error.strerror}.",
                field="api_keys_file",
            ) from error
        if len(content) > _LARGEST_FILE:
            raise InvalidOptionError(
                f"LEGRAD_API_KEYS_FILE {self._path} has more than {_LARGEST_FILE} bytes.",
                field="api_keys_file",
            )
        return content

    def _parse(self, content: bytes) -> tuple[ApiKey, ...]:
        return read_keys(content, "LEGRAD_API_KEYS_FILE")


@dataclass(slots=True)
class _Use:
    """The usage of one key.

    Attributes:
        in_flight: number of its requests in progress.
        mean_seconds: moving average of the duration of its requests.
        rate: the rate that ``bucket`` enforces.
        bucket: leaky bucket of its requests.
        work: leaky bucket of the cost of its explanations.
    """

    in_flight: int = 0
    mean_seconds: float = 0.0
    rate: str | None = None
    bucket: AsyncLimiter | None = None
    work: AsyncLimiter | None = None


class KeyLimits:
    """Enforces the limits of each key. Counts by name, so that a replaced key keeps its counts."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    @asynccontextmanager
    async def count(self, key: ApiKey) -> AsyncIterator[None]:
        """Count one request of a key until the context ends.

        Raises:
            KeyConcurrencyError: the key has reached its limit on concurrent requests.
            KeyRateError: the key has reached its request rate.
        """
        if key.max_concurrent is None and key.rate is None:
            yield
            return
        use = self._uses.setdefault(key.name, _Use())
        if key.max_concurrent is not None and use.in_flight >= key.max_concurrent:
            raise KeyConcurrencyError(
                f"The key {key.name!r} may have {key.max_concurrent} requests at once: wait for "
                "the answer of one.",
                retry_after_seconds=use.mean_seconds / key.max_concurrent,
            )
        await self._take_from_rate(key, use)
        use.in_flight += 1
        began = time.monotonic()
        try:
            yield
        finally:
            use.in_flight -= 1
            use.mean_seconds += _WEIGHT * (time.monotonic() - began - use.mean_seconds)

    async def charge(self, key: ApiKey, cost: float) -> None:
        """Charge the work of one explanation to a key.

        Args:
            key: the key.
            cost: the work, in forward passes of one image at the model's own size.

        Raises:
            KeyCostError: the key has asked for too much work in the last minute.
            LimitExceededError: the work is more than the key may ask for in a whole minute.
        """
        most = key.max_cost_per_minute
        if most is None:
            return
        if cost > most:
            raise LimitExceededError(
                f"The request costs {cost:.1f}, but the key {key.name!r} may ask for {most:g} in a "
                "minute: send fewer or smaller images or fewer prompts at once."
            )
        use = self._uses.setdefault(key.name, _Use())
        if use.work is None or use.work.max_rate != most:
            use.work = AsyncLimiter(most, _SECONDS["minute"])
        if not use.work.has_capacity(cost):
            raise KeyCostError(
                f"The key {key.name!r} may ask for work of {most:g} in a minute, and this request "
                f"costs {cost:.1f}: slow down.",
                # The longest time until a full bucket has room for so much.
                retry_after_seconds=_SECONDS["minute"] * cost / most,
            )
        await use.work.acquire(cost)

    async def _take_from_rate(self, key: ApiKey, use: _Use) -> None:
        if key.rate is None:
            return
        count, _, unit = key.rate.partition("/")
        if use.bucket is None or use.rate != key.rate:
            use.rate, use.bucket = key.rate, AsyncLimiter(int(count), _SECONDS[unit])
        if not use.bucket.has_capacity():
            raise KeyRateError(
                f"The key {key.name!r} may send {count} requests a {unit}: slow down.",
                # The longest time until a full bucket has room for one request.
                retry_after_seconds=use.bucket.time_period / use.bucket.max_rate,
            )
        await use.bucket.acquire()
