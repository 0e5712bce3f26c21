"""Pictures and requests as a caller sends them."""

import base64
import io
import secrets
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from pillow_heif import from_pillow


def picture(width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """Return a picture with large random shapes, different for every seed."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def unseen() -> Image.Image:
    """Return a picture that no earlier test, or run of the same test, has used."""
    return picture(seed=secrets.randbits(64))


def encoded(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """Return the bytes of a picture file."""
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    """Return plain base64."""
    return base64.b64encode(data).decode("ascii")


def data_url(data: bytes) -> str:
    """Return a data URL."""
    return f"data:image/png;base64,{base64_of(data)}"


def opened(text: str) -> Image.Image:
    """Open the picture in a base64 field of an answer."""
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def bomb(side: int = 50_000) -> bytes:
    """Return a PNG of a few hundred bytes whose header declares side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


_IMAGE = data_url(encoded())


def request_of(**changes: Any) -> dict[str, Any]:
    """Return a good JSON body, with changes."""
    return {"image": _IMAGE, "prompts": ["a cat"], **changes}


def heic(image: Image.Image, **options: Any) -> bytes:
    """Return the bytes of a HEIC file."""
    buffer = io.BytesIO()
    from_pillow(image).save(buffer, **options)
    return buffer.getvalue()
