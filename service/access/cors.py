"""Which web pages of other origins may ask."""

import re

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
_ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-Request-ID", "X-Request-Timeout-Ms")
_EXPOSED_HEADERS = ("X-Request-ID", "Retry-After", "Server-Timing")


def check_origins(origins: tuple[str, ...]) -> None:
    """Checks the setting.

    Raises:
        ValueError: one is not an origin as browsers write it, nor ``*``.
    """
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin: write it as browsers do, such as "
                "https://app.example.org, without a path."
            )


def allow_origins(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Lets pages of these origins ask; does nothing if there are none.

    Never with credentials: a browser has no cookies for this service that a page could misuse, and
    keys are sent by whoever has them.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        )
