"""Access control by listening address, API key and scope; the owner of each request."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import lru_cache, partial

from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.errors import AdminDisabledError, ForbiddenError, UnauthorizedError
from service.http.keys import KeyFile, KeyLimits, KeyRing
from service.http.record import record_of
from service.settings.keys import ApiKey, KeyScope
from service.settings.values import AccessPolicy
from service.telemetry.metrics import Metrics

Needs = frozenset[KeyScope]
"""The scopes of a route; a key needs one of them. Empty for an open route."""

OPEN: Needs = frozenset()
EXPLAIN: Needs = frozenset({"explain"})
ADMIN: Needs = frozenset({"admin"})
METRICS: Needs = frozenset({"metrics"})

_MOST_ADDRESSES = 512

# If there is an admin port, it serves the routes with one of these scopes, and no others.
_ADMIN_SIDE: Needs = ADMIN | METRICS


class AccessControl:
    """Grants or refuses the requests of one application access to its routes."""

    def __init__(self, policy: AccessPolicy, metrics: Metrics) -> None:
        """Read the keys.

        Raises:
            InvalidOptionError: the key file cannot be read, or is not a list of keys.
        """
        self._admin_port = policy.admin_port
        self._limits = KeyLimits()
        self._ring: KeyRing | None = None
        self._file: KeyFile | None = None
        if policy.keys is not None:
            self._ring = KeyRing(policy.keys)
        elif policy.keys_file is not None:
            self._ring = KeyRing(())
            self._file = KeyFile(policy.keys_file, self._ring, metrics.key_file_broken.set)

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Reload the key file when it changes, until the context ends."""
        return nullcontext() if self._file is None else self._file.watched()

    @asynccontextmanager
    async def granted(self, scope: Scope, needs: Needs) -> AsyncIterator[None]:
        """Check a request's access to a route, and count it for its key until the context ends.

        Args:
            scope: the request's ASGI scope.
            needs: the scopes of the route.

        Raises:
            HTTPException: status 404; the request's listening address does not serve the route.
            AdminDisabledError: the server has no keys, so its admin routes are off.
            UnauthorizedError: the request has no key, or a wrong one.
            ForbiddenError: the key has none of the scopes.
            TryLaterError: the key has reached a limit.
        """
        if not self.answers(scope, needs):
            raise HTTPException(404)
        if not needs:
            yield
        elif self._ring is None:
            if needs == ADMIN:
                raise AdminDisabledError(
                    "The admin routes are off, because this server has no API keys: add a key "
                    "with the scope admin to LEGRAD_API_KEYS or LEGRAD_API_KEYS_FILE, and restart "
                    "the server."
                )
            yield
        else:
            key = self._find_key(scope)
            if key is None:
                raise UnauthorizedError(
                    "Send a key as 'Authorization: Bearer KEY', once.", field="Authorization"
                )
            record = record_of(scope)
            record.key, record.charge = key.name, partial(self._limits.charge, key)
            if not needs & key.scopes:
                raise ForbiddenError(
                    f"The key {key.name!r} does not have the scope {' or '.join(sorted(needs))}.",
                    needs,
                )
            async with self._limits.count(key):
                yield

    def owner(self, scope: Scope) -> str:
        """Return the name under which a request shares the server: its key, else its address.

        One household has a whole network of IPv6 addresses, which counts as one.
        """
        record = record_of(scope)
        if record.owner is None:
            key = self._find_key(scope)
            client = scope.get("client")
            record.owner = (
                _owner_at(client[0] if client else "") if key is None else f"key {key.name}"
            )
        return record.owner

    def _find_key(self, scope: Scope) -> ApiKey | None:
        """Return the entry of the request's key; None without a valid one."""
        if self._ring is None:
            return None
        record = record_of(scope)
        if not record.key_sought:
            # Of two keys neither counts: proxies and servers may not choose the same one.
            headers = record.headers.getlist("authorization")
            kind, _, given = (headers[0] if len(headers) == 1 else "").partition(" ")
            # Starlette decodes headers as Latin-1. An empty key is never valid, whatever its hash.
            given_key = given.strip().encode("latin-1") if kind.lower() == "bearer" else b""
            record.found_key = self._ring.find(given_key) if given_key else None
            record.key_sought = True
        return record.found_key

    def answers(self, scope: Scope, needs: Needs) -> bool:
        """Return whether the request's listening address serves routes with these scopes."""
        if self._admin_port is None or not needs:
            return True
        # The port of the listening socket: callers can send any Host header. A Unix socket has
        # none.
        on_admin = scope["server"][1] == self._admin_port
        return bool(needs & (_ADMIN_SIDE if on_admin else EXPLAIN))


@lru_cache(_MOST_ADDRESSES)
def _owner_at(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"address {host}"
    if address.version == 6:
        address = ipaddress.ip_network((address, 64), strict=False).network_address
    return f"address {address}"
