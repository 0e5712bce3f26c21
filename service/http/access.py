"""Whether a request may pass."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.errors import AdminDisabledError, ForbiddenError, UnauthorizedError
from service.http.key_limits import KeyLimits
from service.http.key_ring import KeyFile, KeyRing
from service.settings import Settings
from service.settings.keys import ApiKey, KeyScope, read_keys
from service.telemetry.metrics import Metrics

Needs = frozenset[KeyScope]
"""The scopes of which a route needs one; none for a route that is open to all."""

OPEN: Needs = frozenset()
EXPLAIN: Needs = frozenset({"explain"})
ADMIN: Needs = frozenset({"admin"})
METRICS: Needs = frozenset({"metrics"})

# What has moved where there is an address for it.
_ADMIN_SIDE: Needs = ADMIN | METRICS


class AccessControl:
    """Decides about every request of one application."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Reads the keys.

        Raises:
            InvalidOptionError: the file of keys cannot be read, or is not a list of keys.
        """
        self._admin_port = settings.admin_port
        self._limits = KeyLimits()
        self._ring: KeyRing | None = None
        self._file: KeyFile | None = None
        if settings.api_keys is not None:
            self._ring = KeyRing(read_keys(settings.api_keys.get_secret_value(), "LEGRAD_API_KEYS"))
        elif settings.api_keys_file is not None:
            self._ring = KeyRing(())
            self._file = KeyFile(settings.api_keys_file, self._ring, metrics.key_file_broken.set)

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile the file of keys, if there is one, is read again when it changes."""
        return nullcontext() if self._file is None else self._file.watched()

    @asynccontextmanager
    async def admitted(self, scope: Scope, needs: Needs) -> AsyncIterator[None]:
        """Lets a request for a route in, and counts it for its key until it is answered.

        Raises:
            HTTPException: 404, the route is not answered on the address that was asked.
            AdminDisabledError: nobody has a key for the route.
            UnauthorizedError: the request has no key, or a wrong one.
            ForbiddenError: its key has none of the scopes.
            TryLaterError: its key has asked enough for now.
        """
        if not self.answers(scope, needs):
            raise HTTPException(404)
        if not needs:
            yield
        elif self._ring is None:
            if needs == ADMIN:
                raise AdminDisabledError(
                    "This server does not load and unload models by request: give it a key with "
                    "the scope admin, in LEGRAD_API_KEYS or LEGRAD_API_KEYS_FILE, and start it "
                    "again to allow that."
                )
            yield
        else:
            key = _identify(scope, self._ring)
            scope["state"]["key"] = key.name
            if not needs & key.scopes:
                raise ForbiddenError(
                    f"The key {key.name!r} does not have the scope {' or '.join(sorted(needs))}.",
                    needs,
                )
            async with self._limits.held(key):
                yield

    def answers(self, scope: Scope, needs: Needs) -> bool:
        """Whether the address that was asked answers routes with these needs."""
        if self._admin_port is None or not needs:
            return True
        # The socket's own address, whatever the request says of itself.
        on_admin = scope["server"][1] == self._admin_port
        return bool(needs & (_ADMIN_SIDE if on_admin else EXPLAIN))


def _identify(scope: Scope, ring: KeyRing) -> ApiKey:
    kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
    # Headers are bytes that are decoded as Latin-1. No text is a key, though it has a hash too.
    given_key = given.strip().encode("latin-1") if kind.lower() == "bearer" else b""
    key = ring.find(given_key) if given_key else None
    if key is None:
        raise UnauthorizedError("Send a key as 'Authorization: Bearer KEY'.", field="Authorization")
    return key
