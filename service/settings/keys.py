"""API keys as operators write them: a name, the key's hash, scopes and limits."""

import hashlib
import secrets
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from legrad_engine.errors import InvalidOptionError
from service.schemas.json_text import repeated_member, without_mark

KeyScope = Literal["explain", "admin", "metrics"]

_PREFIX = "legrad_"
_LONGEST_PART = 32
_FORMS = {
    "name": "write lower-case letters, digits, '.', '_' and '-', at most 63",
    "sha256": "write the SHA-256 of the key, 64 hexadecimal digits in lower case",
    "rate": "write N/second, N/minute or N/hour, such as 10/second",
}


class ApiKey(BaseModel):
    """One entry of the list of keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name in logs.")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", repr=False, description="SHA-256 of the key, in hexadecimal."
    )
    scopes: frozenset[KeyScope] = Field(min_length=1, description="Routes that the key opens.")
    max_concurrent: int | None = Field(None, ge=1, description="Most requests at once.")
    max_cost_per_minute: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Most work in a minute, in forward passes of one image.",
    )
    rate: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour)$",
        description="Most requests in a period, such as `10/second`.",
    )


_KEYS = TypeAdapter(list[ApiKey])


def new_key() -> str:
    """Return a new key: 256 random bits, in characters that need no quoting in URLs or shells."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(key: bytes) -> bytes:
    """Return the SHA-256 of a key.

    A slow hash protects passwords, which can be guessed. These keys are long and random and cannot
    be guessed; a slow hash would only make wrong keys cost the server more work.
    """
    return hashlib.sha256(key).digest()


def read_keys(text: str | bytes, source: str) -> tuple[ApiKey, ...]:
    """Read the keys of a JSON list.

    Args:
        text: the list.
        source: the setting it comes from, for error messages.

    Raises:
        InvalidOptionError: it is not a list of keys, an entry has a member twice, or two keys have
            the same name or hash. The message names the position of the mistake, never the value:
            it may be a key or a hash.
    """
    if isinstance(text, bytes):
        text = without_mark(text)
    try:
        keys = tuple(_KEYS.validate_json(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if not first["loc"]:
            raise InvalidOptionError(
                f"{source} is not a JSON list of keys: {first['msg']}.", field=source
            ) from None
        form = _FORMS.get(str(first["loc"][-1]))
        message = form if form and first["type"] == "string_pattern_mismatch" else first["msg"]
        # The name of an unknown field may be a key that was pasted in the wrong place.
        place = ".".join(str(part)[:_LONGEST_PART] for part in first["loc"][1:])
        raise InvalidOptionError(
            f"{source}, entry {int(first['loc'][0]) + 1}{place and ', ' + place}: {message}.",
            field=source,
        ) from None
    repeated = repeated_member(text)
    if repeated is not None:
        # Only known names pass the validation, so that this one is no secret.
        raise InvalidOptionError(
            f"{source}, entry {int(repeated[0]) + 1}, {repeated[-1]}: write it once.", field=source
        )
    for attribute, noun in (("name", "the same name"), ("sha256", "the same key")):
        seen: dict[str, int] = {}
        for number, key in enumerate(keys, start=1):
            other = seen.setdefault(getattr(key, attribute), number)
            if other != number:
                raise InvalidOptionError(
                    f"{source}: entries {other} and {number} have {noun}.", field=source
                )
    return keys
