"""The keys that open this server now."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from legrad_engine.errors import InvalidOptionError
from service.settings.keys import ApiKey, digest, read_keys

_CHECK_SECONDS = 1.0
_LARGEST_FILE = 1_000_000

_log = structlog.get_logger("legrad.access")


class KeyRing:
    """Finds the entry of a key that a caller sent."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self.replace(keys)

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """From now on these keys open, and no others."""
        self._entries = tuple((bytes.fromhex(key.sha256), key) for key in keys)

    def find(self, given: bytes) -> ApiKey | None:
        """The entry of this key; takes the same time whichever it is, and if there is none."""
        sent = digest(given)
        found = None
        for stored, key in self._entries:
            if hmac.compare_digest(sent, stored):
                found = key
        return found


class KeyFile:
    """A file of keys, read again when its content changes.

    Content and not time stamps: a mounted secret changes by a link that is swapped.
    """

    def __init__(self, path: Path, ring: KeyRing, broken: Callable[[bool], None]) -> None:
        """Reads the file.

        Args:
            path: a JSON list of keys.
            ring: gets the keys.
            broken: told whether the file as it is now can be read.

        Raises:
            InvalidOptionError: it cannot be read, or is not a list of keys.
        """
        self._path = path
        self._ring = ring
        self._broken = broken
        self._content = self._read()
        ring.replace(self._parse(self._content))

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Meanwhile changes of the file take effect, within seconds."""
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
                content = await asyncio.to_thread(self._read)
                if content != self._content:
                    keys = self._parse(content)
                    self._ring.replace(keys)
                    self._content = content
                    _log.info("keys reloaded", keys=[key.name for key in keys])
                complaint = None
            # Whatever it is: keys that can no longer be taken away are worse.
            except Exception as error:
                # Said once for each state of the file, not every second.
                if str(error) != complaint:
                    complaint = str(error)
                    _log.error("keys not reloaded, the earlier ones stay", reason=complaint)
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
