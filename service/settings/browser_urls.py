"""The notation of what browsers call a server by: web origins and path prefixes."""

import re

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
# No empty segments: browsers would read `//name` as another host.
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_LONGEST = 200


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


def read_prefix(text: str) -> str:
    """Return a path prefix without its last slash; ``/`` alone and an empty text are no prefix.

    Raises:
        ValueError: it does not begin with a slash, or has characters that need an encoding.
    """
    prefix = text.removesuffix("/")
    if prefix and (
        len(prefix) > _LONGEST
        or not _PREFIX.fullmatch(prefix)
        or {".", ".."} & set(prefix.split("/"))
    ):
        raise ValueError(
            "write a path such as /legrad: it begins with a slash, and has letters, digits, '.', "
            "'_', '~' and '-' between single slashes"
        )
    return prefix
