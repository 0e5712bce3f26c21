"""Who may load and unload models."""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.problems import AdminDisabledError, UnauthorizedError
from service.settings import Settings

_bearer = HTTPBearer(
    auto_error=False, scheme_name="AdminKey", description="The server's `LEGRAD_ADMIN_KEY`."
)


async def require_admin(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Lets a request pass that carries the admin key.

    Raises:
        AdminDisabledError: the server has no admin key.
        UnauthorizedError: the request has none, or another.
    """
    settings: Settings = request.app.state.settings
    if settings.admin_key is None:
        raise AdminDisabledError(
            "This server does not load and unload models by request: set LEGRAD_ADMIN_KEY and "
            "start it again to allow that."
        )
    # Headers are decoded as Latin-1; the key itself is text of any kind.
    given = b"" if credentials is None else credentials.credentials.encode("latin-1")
    if not hmac.compare_digest(given, settings.admin_key.get_secret_value().encode()):
        raise UnauthorizedError(
            "Send the server's admin key as 'Authorization: Bearer KEY'.", field="Authorization"
        )
