"""Seeds of the fuzzer: a few small, valid inputs of every kind."""

import io
import itertools
import json
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import ExifTags, Image

from legrad_engine.images.formats import HEAD_BYTES, recognise
from service.schemas.base import EXAMPLE_IMAGE
from tests.support import icc_profiles
from tests.support.picture_files import grid_of
from tests.support.pictures import encoded, heic
from tests.support.tiff_files import DEFLATE, nodata, tiff_of

_BOUNDARY = "b"


def pictures() -> Iterator[bytes]:
    """Yield small files of every accepted format, in their modes, orientations and compressions."""
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM"):
        yield _encoded("RGB", kind)
    for mode, kind in itertools.product(("1", "L", "LA", "P", "RGBA"), ("PNG", "TIFF")):
        yield _encoded(mode, kind)
    yield _encoded("I;16", "PNG")
    yield _encoded("I;16", "TIFF")
    yield _encoded("F", "TIFF")
    yield _encoded("CMYK", "JPEG")
    yield _encoded("CMYK", "TIFF")
    yield _encoded("L", "JPEG", progressive=True)
    yield _encoded("RGB", "WEBP", lossless=True)
    yield _encoded("RGBA", "WEBP")
    yield _encoded("P", "BMP")
    yield _encoded("1", "PPM")
    yield from (b"P%d 2 2 1 0 1 1 0" % kind for kind in (1, 2))
    yield b"P3 2 1 255 255 0 0 0 255 0"
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        mode = "1" if compression == "group4" else "RGB"
        yield _encoded(mode, "TIFF", compression=compression)
    for orientation in range(10):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
            yield _encoded("RGB", kind, exif=exif)
    yield heic(Image.new("RGB", (8, 6), "red"))
    yield heic(Image.new("RGBA", (8, 6)), icc_profile=icc_profiles.display_p3())
    for mode, profile in (
        ("RGB", icc_profiles.display_p3()),
        ("L", icc_profiles.grey(1.8)),
        ("CMYK", icc_profiles.cmyk()),
    ):
        yield _encoded(mode, "JPEG", icc_profile=profile)
        yield _encoded(mode, "TIFF", icc_profile=profile)
    yield tiff_of(np.arange(48, dtype=np.float32).reshape(6, 8), nodata("-9999"))
    yield tiff_of(np.arange(48, dtype=">i4").reshape(6, 8), compression=DEFLATE)
    frames = [Image.new("P", (8, 6), shade) for shade in (1, 2)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames)
        yield stream.getvalue()


def of_kinds(kind: str) -> Callable[[], Iterator[bytes]]:
    """Return a function that yields the pictures of one format."""

    def chosen() -> Iterator[bytes]:
        for data in pictures():
            # HEIC has the structure of AVIF.
            name = recognise(data[:HEAD_BYTES])
            if name == kind or (kind, name) == ("AVIF", "HEIF"):
                yield data
        if kind == "BMP":
            yield from run_length_bitmaps()
        if kind == "AVIF":
            single = encoded(Image.new("RGB", (64, 64), "red"), "AVIF")
            yield grid_of(single, 4, shown=(256, 64))
            yield encoded(Image.new("RGBA", (16, 16)), "AVIF")
        if kind == "GIF":
            yield encoded(Image.new("P", (8, 6), 1), "GIF", comment=b"a comment", transparency=1)
            yield encoded(Image.new("L", (8, 6), 9), "GIF", interlace=True)
            yield encoded(Image.new("1", (9, 5)), "GIF")

    return chosen


def run_length_bitmaps() -> Iterator[bytes]:
    """Yield bitmaps with runs of 8 and of 4 bits."""
    for bits, compression in ((8, 1), (4, 2)):
        for rows in (b"\x08\x01\0\0" * 6 + b"\0\1", b"\0\x04abcd\0\2\1\1\0\0\0\1"):
            head = 54 + 4 * (1 << bits)
            yield (
                b"BM"
                + struct.pack("<IHHI", head + len(rows), 0, 0, head)
                + struct.pack("<IiiHHIIiiII", 40, 8, 6, 1, bits, compression, len(rows), 0, 0, 0, 0)
                + bytes(head - 54)
                + rows
            )


def texts() -> Iterator[bytes]:
    """Yield pictures as base64 and as data URLs, and similar texts that are neither."""
    plain = EXAMPLE_IMAGE.partition(",")[2]
    for text in (
        EXAMPLE_IMAGE,
        plain,
        f" {plain}\n",
        "data:,a",
        "DATA:;BASE64,-_8",
        "data:;base64,%2B",
        "http://a/",
        "=",
    ):
        yield text.encode()


def json_bodies() -> Iterator[bytes]:
    """Yield JSON bodies with every kind of picture, target and option."""
    targets = [
        {"type": "text", "texts": ["a cat", "a dog"]},
        {"type": "image", "image": EXAMPLE_IMAGE},
        {"type": "embedding", "embedding": [1, 0.5]},
        {"type": "embedding", "embedding": {"b64": "AACAPw=="}},
        {"type": "class", "index": 1},
        {"type": "class", "label": "cat"},
        {
            "type": "contrast",
            "target": {"type": "text", "text": "a"},
            "against": {"type": "text", "text": "b"},
        },
        {
            "type": "residual",
            "target": {"type": "text", "text": "a"},
            "distractors": [{"type": "text", "text": "b"}],
            "atoms": 1,
        },
    ]
    options = {
        "layers": [0, -1],
        "score": "cls",
        "size": 64,
        "fit": "native",
        "templates": ["{}!"],
        "negatives": {"prompts": ["a"], "mode": "mask", "threshold": 0.5},
    }
    output = {"heatmap": "npy", "alpha": 0.5, "normalize": "shared", "regions_threshold": None}
    for image in (EXAMPLE_IMAGE, {"b64": "AA=="}, {"url": "https://a.example/b.png"}):
        yield json.dumps({"image": image, "prompts": ["a cat"]}).encode()
    for target in targets:
        yield json.dumps({"image": EXAMPLE_IMAGE, "targets": [target]}).encode()
    whole = {"images": [EXAMPLE_IMAGE] * 2, "prompts": ["a"], "options": options, "output": output}
    yield json.dumps(whole).encode()


def multipart_bodies() -> Iterator[bytes]:
    """Yield the parameters of `multipart/form-data` on a line of their own, then the body."""
    file = 'name="image"; filename="a.png"\r\nContent-Type: image/png'
    parts = {
        "two fields": [(file, "abc"), ('name="prompts"', "a cat")],
        "every field": [
            (file, "abc"),
            ('name="targets"', '[{"type": "text", "text": "a"}]'),
            ('name="options"', '{"layers": 2}'),
            ('name="output"', "{}"),
            ('name="model"', "starter"),
        ],
        "no file": [('name="image"', "abc")],
        "another charset": [("name*=utf-8''image; filename*=latin-1''a", "abc")],
    }
    for fields in parts.values():
        body = "".join(
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {header}\r\n\r\n{content}\r\n"
            for header, content in fields
        )
        yield f"boundary={_BOUNDARY}\n{body}--{_BOUNDARY}--\r\n".encode()
    yield b"charset=utf-16; boundary=b\n--b--"


def _encoded(mode: str, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    shades = Image.linear_gradient("L").resize((8, 6))
    picture = Image.new("I;16", (8, 6), 30_000) if mode == "I;16" else shades.convert(mode)
    picture.save(stream, kind, **options)
    return stream.getvalue()
