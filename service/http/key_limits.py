"""How much each key may ask: requests at once, and requests in a time."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from service.errors import KeyConcurrencyError, KeyRateError
from service.settings.keys import ApiKey

_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
# How much the latest request counts in the mean.
_WEIGHT = 0.2


@dataclass(slots=True)
class _Use:
    """What one key does, and has done."""

    in_flight: int = 0
    mean_seconds: float = 0.0
    rate: str | None = None
    bucket: AsyncLimiter | None = None


class KeyLimits:
    """Counts by the name of a key, so that another hash under the name changes nothing."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    @asynccontextmanager
    async def held(self, key: ApiKey) -> AsyncIterator[None]:
        """Counts one request of the key until it is answered.

        Raises:
            KeyConcurrencyError: as many are in flight as the key may have.
            KeyRateError: the key may have no request now.
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
        await self._count(key, use)
        use.in_flight += 1
        began = time.monotonic()
        try:
            yield
        finally:
            use.in_flight -= 1
            use.mean_seconds += _WEIGHT * (time.monotonic() - began - use.mean_seconds)

    async def _count(self, key: ApiKey, use: _Use) -> None:
        if key.rate is None:
            return
        count, _, unit = key.rate.partition("/")
        if use.bucket is None or use.rate != key.rate:
            use.rate, use.bucket = key.rate, AsyncLimiter(int(count), _SECONDS[unit])
        if not use.bucket.has_capacity():
            raise KeyRateError(
                f"The key {key.name!r} may send {count} requests a {unit}: slow down.",
                # A full bucket has room for one again after this long at most.
                retry_after_seconds=use.bucket.time_period / use.bucket.max_rate,
            )
        await use.bucket.acquire()
