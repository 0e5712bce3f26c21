"""Files of the ISO base media format, and headers of coded pictures, built field by field."""

import struct
from collections.abc import Sequence

from legrad_engine.images.containers import metadata_ranges


class BitWriter:
    """Writes fields of bits, most significant first."""

    def __init__(self) -> None:
        self._bits = ""

    def write(self, *fields: tuple[int, int]) -> "BitWriter":
        """Write (value, number of bits) of each field."""
        for value, count in fields:
            self._bits += f"{value:0{count}b}" if count else ""
        return self

    def exponential(self, value: int) -> "BitWriter":
        """Write a number in Exp-Golomb code."""
        binary = f"{value + 1:b}"
        self._bits += "0" * (len(binary) - 1) + binary
        return self

    @property
    def data(self) -> bytes:
        """The written bits, and a stop bit."""
        bits = self._bits + "1"
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


def box(kind: bytes, *content: bytes, version: int | None = None) -> bytes:
    """Return a box; with version and flags if it has a version."""
    body = b"".join(content)
    if version is not None:
        body = bytes([version, 0, 0, 0]) + body
    return struct.pack(">I", 8 + len(body)) + kind + body


def grid_of(single: bytes, cells: int, *, shown: tuple[int, int] = (64, 64)) -> bytes:
    """Return a file whose picture is a grid of one row that shows the same picture in each cell.

    Args:
        single: an AVIF or HEIC file of one picture.
        cells: the number of cells, at most 256.
        shown: (width, height) of the grid in pixels, as the file states it.
    """
    ((start, stop),) = metadata_ranges(single)
    content = _boxes(single[start + 4 : stop])
    properties = _boxes(content[b"iprp"][8:])[b"ipco"][8:]
    coded = next(kind for kind in (b"av01", b"hvc1") if kind in content[b"iinf"])
    data = single[single.index(b"mdat") + 4 :]
    count = len(_list(properties))
    properties += box(b"ispe", struct.pack(">II", *shown), version=0)
    # Every property of the single picture belongs to each cell, and the new size to the grid.
    numbers = range(2, cells + 2)
    associations = struct.pack(">IH", 1 + cells, 1) + bytes([1, count + 1])
    for number in numbers:
        associations += struct.pack(">H", number) + bytes([count, *range(1, count + 1)])
    layout = bytes([0, 0, 0, cells - 1]) + struct.pack(">HH", *shown)

    def metadata(place: int) -> bytes:
        return box(
            b"meta",
            box(b"hdlr", bytes(4) + b"pict" + bytes(13), version=0),
            box(b"pitm", struct.pack(">H", 1), version=0),
            box(
                b"iloc",
                struct.pack(">BBH", 0x44, 0, 1 + cells),
                struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(layout)),
                *(struct.pack(">HHHHII", each, 0, 0, 1, place, len(data)) for each in numbers),
                version=1,
            ),
            box(
                b"iinf",
                struct.pack(">H", 1 + cells),
                box(b"infe", struct.pack(">HH", 1, 0), b"grid\0", version=2),
                *(
                    box(b"infe", struct.pack(">HH", each, 0), coded, b"\0", version=2)
                    for each in numbers
                ),
                version=0,
            ),
            box(
                b"iref",
                box(b"dimg", struct.pack(f">HH{cells}H", 1, cells, *numbers)),
                version=0,
            ),
            box(
                b"iprp",
                box(b"ipco", properties),
                box(b"ipma", associations, version=0),
            ),
            box(b"idat", layout),
            version=0,
        )

    head = single[: struct.unpack_from(">I", single)[0]]
    place = len(head) + len(metadata(0)) + 8
    return head + metadata(place) + box(b"mdat", data)


def _list(content: bytes) -> Sequence[bytes]:
    found = []
    while content:
        size = struct.unpack_from(">I", content)[0]
        found.append(content[:size])
        content = content[size:]
    return found


def _boxes(content: bytes) -> dict[bytes, bytes]:
    return {each[4:8]: each for each in _list(content)}
