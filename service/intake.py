"""From what a caller sent to the encoded bytes of its pictures."""

import base64
import binascii
import string

from legrad_engine.errors import ImageDecodeError
from service.schemas import EncodedImage, ImageField

_WHITESPACE = string.whitespace.encode("ascii")


def image_bytes(image: ImageField, field: str) -> bytes:
    """The encoded picture of one request field.

    Args:
        image: a data URL, plain base64, or an object that says what it holds.
        field: the field's name, for the error.

    Raises:
        ImageDecodeError: not base64, or a data URL of another encoding.
    """
    text = image.b64 if isinstance(image, EncodedImage) else image
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise ImageDecodeError(
                "The data URL is not base64: write data:image/png;base64, and then the picture.",
                field=field,
            )
    elif text.startswith(("http://", "https://")):
        raise ImageDecodeError(
            "This server does not fetch pictures: send the picture itself, as base64, as a data "
            "URL or as multipart/form-data.",
            field=field,
        )
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _WHITESPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageDecodeError(
            f"The picture is not valid base64 ({error}).", field=field
        ) from error
