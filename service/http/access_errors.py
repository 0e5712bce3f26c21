"""What callers are told who may not, or not now."""

from collections.abc import Iterable, Mapping

from service.http.problems import ServiceError, TryLaterError


class UnauthorizedError(ServiceError):
    """The key is missing or wrong."""

    status, code, title = 401, "unauthorized", "The key is missing or wrong"

    @property
    def headers(self) -> Mapping[str, str]:
        """How to authenticate."""
        return {"WWW-Authenticate": 'Bearer realm="legrad"'}


class ForbiddenError(ServiceError):
    """The key does not have the scope that the route needs."""

    status, code, title = 403, "forbidden", "The key does not open this"

    def __init__(self, message: str, scopes: Iterable[str]) -> None:
        super().__init__(message, field="Authorization")
        self._scopes = " ".join(sorted(scopes))

    @property
    def headers(self) -> Mapping[str, str]:
        """Which scope is missing, as RFC 6750 writes it."""
        challenge = f'Bearer realm="legrad", error="insufficient_scope", scope="{self._scopes}"'
        return {"WWW-Authenticate": challenge}


class AdminDisabledError(ServiceError):
    """The server has no keys, so its admin routes are off."""

    status, code, title = 403, "admin-disabled", "The admin routes are off"


class KeyConcurrencyError(TryLaterError):
    """The key has as many requests in flight as it may have."""

    status, code, title = 429, "key-concurrency", "The key has too many requests at once"


class KeyRateError(TryLaterError):
    """The key sends requests faster than it may."""

    status, code, title = 429, "key-rate", "The key sends requests too fast"
