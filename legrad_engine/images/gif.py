"""GIF files without the blocks that the first frame does not need."""

import io
import re

from PIL import GifImagePlugin

# Comments and metadata of real files have a few thousand, of up to 255 bytes each.
_MOST_BLOCKS = 50_000
_HEAD_BYTES = 13
_NEXT = re.compile(rb"[!,;]")
_GRAPHIC_CONTROL = 0xF9
_DISPOSAL_BITS = 0b00011100


class GifFile(GifImagePlugin.GifImageFile):
    """Pillow's GIF reader, for the first frame alone.

    Pillow collects every comment, and fills an area of the frame's size before the caller can
    check it, to prepare for the next frame.
    """

    def _open(self) -> None:
        data = b"" if self.fp is None else self.fp.read()
        self.fp = io.BytesIO(_first_frame(data))
        super()._open()


def _first_frame(data: bytes) -> bytes:
    """Return the file's head, graphic controls without disposal, and the frames.

    Raises:
        ValueError: there are too many blocks before the first frame.
    """
    flags = data[10] if len(data) > 10 else 0
    start = _HEAD_BYTES + (3 << (flags & 7) + 1 if flags & 128 else 0)
    kept = [data[:start]]
    position, blocks = start, 0
    while (found := _NEXT.search(data, position)) is not None:
        if found[0] != b"!":
            kept.append(data[found.start() :])
            break
        begin, label = found.start(), data[found.start() + 1 : found.start() + 2]
        position = begin + 2
        while position < len(data) and (size := data[position]):
            position += 1 + size
            blocks = _counted(blocks)
        position += 1
        blocks = _counted(blocks)
        if label == bytes((_GRAPHIC_CONTROL,)):
            control = bytearray(data[begin:position])
            control[3:4] = bytes(byte & ~_DISPOSAL_BITS for byte in control[3:4])
            kept.append(bytes(control))
    return b"".join(kept)


def _counted(blocks: int) -> int:
    if blocks == _MOST_BLOCKS:
        raise ValueError(f"more than {_MOST_BLOCKS} blocks before the first frame")
    return blocks + 1
