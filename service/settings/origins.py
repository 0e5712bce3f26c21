"""How an origin is written."""

import re

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")


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
