"""PNG files without the metadata that no picture needs."""

import io
import zlib
from dataclasses import dataclass

from PIL import PngImagePlugin

from legrad_engine.images.colors import LARGEST_PROFILE

_SIGNATURE = 8
# Length and type before the data of a chunk, and its checksum after it.
_HEAD, _CHECKSUM = 8, 4
_PICTURE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# Texts in which programs that know no eXIf chunk store the orientation.
_ORIENTATION_KEYWORDS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_LONGEST_TEXT = 1_000_000
# Encoders write one for every 8 kB of pixels, and few others.
_MOST_CHUNKS = 50_000
_LEAST_MEAN_BYTES = 1024


class PngFile(PngImagePlugin.PngImageFile):
    """Pillow's PNG reader, without its refusal of large or damaged metadata.

    Pillow unpacks every text and profile before it opens a picture, and refuses the picture if one
    is large, damaged or has a wrong checksum.
    """

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        needed = _needed_chunks(data)
        self.fp = io.BytesIO(needed.data)
        super()._open()
        if needed.profile is not None:
            self.info["icc_profile"] = needed.profile
        if "transparency" in self.info:
            self._scale_transparency(bit_depth=data[24])

    def _scale_transparency(self, bit_depth: int) -> None:
        """Bring the transparent colour, told in the file's bit depth, to that of the pixels.

        Pillow decodes grey of 2 or 4 bits, and colours of 16, to 8 bits.
        """
        transparency = self.info["transparency"]
        if self.mode == "L" and isinstance(transparency, int):
            self.info["transparency"] = transparency * 255 // (2**bit_depth - 1)
        elif self.mode == "RGB" and isinstance(transparency, tuple) and bit_depth == 16:
            self.info["transparency"] = tuple(value >> 8 for value in transparency)


@dataclass(frozen=True)
class _Needed:
    data: bytes
    profile: bytes | None


def _needed_chunks(data: bytes) -> _Needed:
    """Return the chunks that the picture needs, as a file, and the ICC profile.

    An animation becomes its default image. A file that ends within a chunk keeps that chunk.

    Raises:
        ValueError: it has many times more chunks than any encoder writes.
    """
    most = max(_MOST_CHUNKS, len(data) // _LEAST_MEAN_BYTES)
    view = memoryview(data)
    kept = [view[:_SIGNATURE]]
    profile: bytes | None = None
    single: set[bytes] = set()
    start, chunks = _SIGNATURE, 0
    while start + _HEAD <= len(data):
        chunks += 1
        if chunks > most:
            raise ValueError(f"more than {most} chunks")
        kind = data[start + 4 : start + _HEAD]
        body = start + _HEAD
        end = body + int.from_bytes(data[start : start + 4], "big") + _CHECKSUM
        chunk = view[start:end]
        content = view[body : end - _CHECKSUM]
        start = end
        if kind in _PICTURE or _is_critical(kind):
            kept.append(chunk)
        elif end > len(data) or not _is_intact(chunk):
            continue
        elif kind == b"iCCP" and profile is None:
            profile = _unpack_profile(bytes(content))
        elif kind == b"eXIf" or (kind in _TEXTS and _may_tell_orientation(kind, content)):
            # The first of each counts; a thousand copies must not be unpacked.
            name = kind if kind == b"eXIf" else _keyword(content)
            if name not in single:
                single.add(name)
                kept.append(chunk)
        if kind == b"IEND":
            break
    return _Needed(b"".join(kept), profile)


def _is_critical(kind: bytes) -> bool:
    # A reader must refuse critical chunks that it does not know; Pillow knows which.
    return kind[:1].isupper()


def _is_intact(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-_CHECKSUM]) == int.from_bytes(chunk[-_CHECKSUM:], "big")


def _keyword(content: memoryview) -> bytes:
    return bytes(content[:80]).partition(b"\0")[0]


def _may_tell_orientation(kind: bytes, content: memoryview) -> bool:
    keyword = _keyword(content)
    if keyword not in _ORIENTATION_KEYWORDS or len(content) > _LONGEST_TEXT:
        return False
    rest = bytes(content[len(keyword) + 1 :])
    if kind == b"tEXt":
        return True
    if kind == b"zTXt":
        return _unpack(rest[1:], _LONGEST_TEXT) is not None
    if rest[:1] == b"\0":
        return True
    return _unpack(rest[2:].split(b"\0", 2)[-1], _LONGEST_TEXT) is not None


def _unpack_profile(content: bytes) -> bytes | None:
    _, _, packed = content.partition(b"\0")
    return _unpack(packed[1:], LARGEST_PROFILE) if packed[:1] == b"\0" else None


def _unpack(packed: bytes, most: int) -> bytes | None:
    """Return the unpacked bytes; None if they are damaged or more than the most."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, most)
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None
