"""Decoding of base64 and data URLs, as clients of all kinds write them."""

import base64
import binascii
import string
from urllib.parse import unquote_to_bytes

import pybase64

# Of the alphabet for URLs to the usual one.
_USUAL = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = string.whitespace.encode("ascii")
_QUANTUM = 4


class OtherDataUrlError(ValueError):
    """A data URL has another encoding than base64."""


def is_data_url(text: str) -> bool:
    """Return whether a text is a data URL. Its scheme may be in any case."""
    return text[:5].lower() == "data:"


def decode_data_url(text: str) -> bytes:
    """Return the content of a data URL.

    Raises:
        OtherDataUrlError: the URL does not say that its content is base64.
        ValueError: the content is not base64.
    """
    header, comma, content = text.partition(",")
    if not comma or header.rpartition(";")[2].strip().lower() != "base64":
        raise OtherDataUrlError
    if "%" in content:
        return decode_base64(unquote_to_bytes(content))
    return decode_base64(content)


def decode_base64(text: str | bytes) -> bytes:
    """Decode base64 with the usual alphabet or that for URLs, with padding or without.

    Whitespace is skipped.

    Raises:
        ValueError: it is not base64.
    """
    try:
        # Most clients write it without whitespace, in the usual alphabet and with padding.
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        encoded = text.encode("ascii") if isinstance(text, str) else text
    encoded = encoded.translate(_USUAL, _WHITESPACE)
    if not encoded.endswith(b"="):
        encoded += b"=" * (-len(encoded) % _QUANTUM)
    return decode_strictly(encoded)


def decode_strictly(encoded: bytes) -> bytes:
    """Decode base64 with the usual alphabet, without whitespace.

    Raises:
        ValueError: it is not base64; the message says why.
    """
    try:
        return pybase64.b64decode(encoded, validate=True)
    except binascii.Error:
        # It names the reason, and accepts padding after a whole quantum.
        return base64.b64decode(encoded, validate=True)
