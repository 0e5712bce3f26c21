"""Mutators that know the structure of a format, so that its own checks do not end every try.

Each changes one field or one block; the fuzzer's own mutator changes any byte in between.
"""

import random
import struct
from collections.abc import Callable, Iterator

Mutate = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, 1, 2, 8, 63, 64, 255, 256, 32_767, 65_535, 1 << 24, (1 << 31) - 1, (1 << 32) - 1)
# Boxes that hold others, and the fields before these: a version, flags, a count of the others.
_CONTAINERS = {
    **dict.fromkeys((b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl"), 0),
    b"meta": 4,
    b"iinf": 6,
    b"stsd": 8,
}
_TIFF_TYPES = range(14)


def avif(data: bytes, chance: random.Random) -> bytes:
    """Change a field within a box, a box's size or type, or repeat, drop or swap boxes."""
    boxes = list(_boxes(data, 0, len(data)))
    if not boxes:
        return data
    start, stop, kind = chance.choice(boxes)
    box = data[start:stop]
    match chance.randrange(5):
        case 0:
            changed = box + box
        case 1:
            changed = b""
        case 2:
            other = chance.choice(boxes)
            changed = data[other[0] : other[1]]
        case 3:
            changed = struct.pack(">I", chance.choice(_NUMBERS)) + box[4:]
        case _:
            # The size of a picture (ispe), the place of its data (iloc), a sequence header, ...
            changed = _with_number(box, 8 if len(box) > 12 else 0, chance, ">")
    if kind == b"mdat":
        return data[:start] + changed + data[stop:]
    return _resized(data, start, stop, changed)


def gif(data: bytes, chance: random.Random) -> bytes:
    """Change the size of the screen or of a frame, or repeat, drop or insert blocks."""
    if len(data) < 13:
        return data
    blocks = list(_gif_blocks(data))
    if not blocks or chance.random() < 0.2:
        return data[:6] + _with_number(data[6:13], 0, chance, "<", 2) + data[13:]
    start, stop = chance.choice(blocks)
    block = data[start:stop]
    match chance.randrange(5):
        case 0:
            changed = block * chance.choice((2, 3, 50))
        case 1:
            changed = b""
        case 2:
            text = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 20)))
            changed = b"!\xfe" + bytes([len(text)]) + text + b"\0" + block
        case 3:
            flags = chance.randrange(256)
            changed = b"!\xf9\x04" + bytes([flags, 0, 0, chance.randrange(256)]) + b"\0" + block
        case _:
            changed = _with_number(block, 1, chance, "<", 2)
    return data[:start] + changed + data[stop:]


def tiff(data: bytes, chance: random.Random) -> bytes:
    """Change the tag, type, count or value of an entry, or repeat or drop one."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (folder,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, folder)
        place = folder + 2 + 12 * chance.randrange(count)
        tag, kind, number, value = struct.unpack_from(f"{order}HHII", data, place)
    except (struct.error, ValueError):
        return data
    match chance.randrange(5):
        case 0:
            kind = chance.choice(_TIFF_TYPES)
        case 1:
            number = chance.choice(_NUMBERS)
        case 2:
            tag = chance.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 317, 322, 323, 339))
        case _:
            value = chance.choice((*_NUMBERS, value + 1, max(0, value - 1)))
    entry = struct.pack(f"{order}HHII", tag, kind, number, value & 0xFFFFFFFF)
    return data[:place] + entry + data[place + 12 :]


def bmp(data: bytes, chance: random.Random) -> bytes:
    """Change a field of the header, or insert codes of run-length encoding."""
    if len(data) < 54:
        return data
    if chance.random() < 0.5:
        place = chance.choice((10, 14, 18, 22, 30, 34, 46, 50))
        value = chance.choice((*_NUMBERS, (1 << 32) - 8))
        return data[:place] + struct.pack("<I", value) + data[place + 4 :]
    if chance.random() < 0.3:
        depth, compression = chance.choice((1, 4, 8, 16, 24, 32)), chance.randrange(5)
        return data[:28] + struct.pack("<HI", depth, compression) + data[34:]
    place = chance.randrange(54, len(data) + 1)
    codes = (b"\0\0", b"\0\1", b"\0\2\xff\xff", b"\0\xff", b"\xff\7", b"\1\0")
    return data[:place] + chance.choice(codes) * chance.choice((1, 4, 100)) + data[place:]


def _with_number(
    data: bytes, first: int, chance: random.Random, order: str, width: int = 0
) -> bytes:
    """Return the data with another number anywhere from a place on."""
    width = width or chance.choice((1, 2, 4))
    if len(data) < first + width:
        return data
    place = chance.randrange(first, len(data) - width + 1)
    value = chance.choice(_NUMBERS) & ((1 << 8 * width) - 1)
    number = value.to_bytes(width, "little" if order == "<" else "big")
    return data[:place] + number + data[place + width :]


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield where each box starts and stops, and its type, with the boxes inside others."""
    while start + 8 <= stop:
        size = int.from_bytes(data[start : start + 4], "big")
        end = min(stop, start + size) if size >= 8 else stop
        kind = data[start + 4 : start + 8]
        yield start, end, kind
        if kind in _CONTAINERS:
            yield from _boxes(data, start + 8 + _CONTAINERS[kind], end)
        start = end


def _resized(data: bytes, start: int, stop: int, changed: bytes) -> bytes:
    """Return the data with a box replaced, and the boxes around it as large as they became."""
    grown = len(changed) - (stop - start)
    result = bytearray(data)
    for outer, end, _ in _boxes(data, 0, len(data)):
        if outer < start and end >= stop:
            size = max(0, int.from_bytes(data[outer : outer + 4], "big") + grown)
            result[outer : outer + 4] = struct.pack(">I", size & 0xFFFFFFFF)
    result[start:stop] = changed
    return bytes(result)


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each block starts and stops."""
    start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    while start < len(data) and data[start : start + 1] in (b"!", b","):
        position = start + 2
        if data[start : start + 1] == b",":
            flags = data[start + 9] if start + 9 < len(data) else 0
            position = start + 11 + (3 << (flags & 7) + 1 if flags & 128 else 0)
        while position < len(data) and data[position]:
            position += 1 + data[position]
        yield start, min(position + 1, len(data))
        start = position + 1
