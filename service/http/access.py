"""Access control: whether a request may reach its route."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.errors import AdminDisabledError, ForbiddenError, UnauthorizedError
from service.http.keys import KeyFile, KeyLimits, KeyRing
from service.http.record import record_of
from service.settings.keys import ApiKey, KeyScope
from service.settings.values import AccessPolicy
from service.telemetry.metrics import Metrics

Needs = frozenset[KeyScope]
"""The scopes of which a route needs one; empty for a route that is open to all."""

OPEN: Needs = frozenset()
EXPLAIN: Needs = frozenset({"explain"})
ADMIN: Needs = frozenset({"admin"})
METRICS: Needs = frozenset({"metrics"})

# Routes that only the operators' address answers, where there is one.
_ADMIN_SIDE: Needs = ADMIN | METRICS


class AccessControl:
    """Decides about every request of one application."""

    def __init__(self, policy: AccessPolicy, metrics: Metrics) -> None:
        """Read the keys.

        Raises:
            InvalidOptionError: the file of keys cannot be read, or is not a list of keys.
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
        """Read the file of keys again when it changes, for as long as the context lasts."""
        return nullcontext() if self._file is None else self._file.watched()

    @asynccontextmanager
    async def granted(self, scope: Scope, needs: Needs) -> AsyncIterator[None]:
        """Grant a request access to a route, and count it for its key until it is answered.

        Raises:
            HTTPException: 404, this address of the server does not answer the route.
            AdminDisabledError: nobody has a key for the route.
            UnauthorizedError: the request has no key, or a wrong one.
            ForbiddenError: its key has none of the scopes.
            TryLaterError: its key has reached a limit.
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
            record_of(scope).key = key.name
            if not needs & key.scopes:
                raise ForbiddenError(
                    f"The key {key.name!r} does not have the scope {' or '.join(sorted(needs))}.",
                    needs,
                )
            async with self._limits.count(key):
                yield

    def answers(self, scope: Scope, needs: Needs) -> bool:
        """Return whether the address of the request answers routes with these needs."""
        if self._admin_port is None or not needs:
            return True
        # The socket's own address; the Host header is the caller's choice.
        on_admin = scope["server"][1] == self._admin_port
        return bool(needs & (_ADMIN_SIDE if on_admin else EXPLAIN))


def _identify(scope: Scope, ring: KeyRing) -> ApiKey:
    kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
    # Starlette decodes headers as Latin-1. The empty text is no key, although it has a hash.
    given_key = given.strip().encode("latin-1") if kind.lower() == "bearer" else b""
    key = ring.find(given_key) if given_key else None
    if key is None:
        raise UnauthorizedError("Send a key as 'Authorization: Bearer KEY'.", field="Authorization")
    return key
