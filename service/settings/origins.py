"""The notation of web origins."""

import re

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")


def check_origins(origins: tuple[str, ...]) -> None:
    """Check the notation of origins.

    Raises:
        ValueError: an entry is neither an origin as browsers write it nor ``*``.
    """
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin: write it as browsers do, such as "
                "https://app.example.org, without a path."
            )
