"""The notation of path prefixes."""

import re

# No empty segments: browsers would read `//name` as another host.
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_LONGEST = 200


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
