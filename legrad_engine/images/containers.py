"""Pictures in files of the ISO base media format, AVIF and HEIF: their parts and coded sizes."""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from legrad_engine.images.bitstreams import Size, av1_sizes, hevc_sizes

# Many times more than any encoder writes. Without a limit, a large file of nothing else would take
# many seconds.
_MOST_STEPS = 200_000
_DERIVED = frozenset({b"grid", b"iovl", b"iden"})
# Boxes of which a file has at most one within another. Decoders differ in the one of two they take.
_SINGLE = frozenset(
    {
        *(b"pitm", b"iinf", b"iloc", b"iprp", b"ipco", b"iref", b"idat"),
        *(b"stsd", b"stsz", b"stco", b"co64"),
    }
)
# The fields of a sample entry before its boxes.
_SAMPLE_ENTRY_BYTES = 78

Box = tuple[bytes, int, int]
"""Type of a box, and where its content starts and stops in the file."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The sizes that a file and the coded pictures in it state.

    Attributes:
        largest: (width, height) in pixels of the largest coded picture, before cropping.
        pixels: pixels of all cells of the composed picture together; 0 if it is one picture.
        kinds: types of all items, four characters each.
    """

    largest: Size
    pixels: int
    kinds: frozenset[bytes]

    def most_pixels(self, size: Size) -> int:
        """Return the pixels that are decoded at once at most, of a picture of this size."""
        return max(math.prod(size), math.prod(self.largest), self.pixels)


@dataclass(slots=True)
class _Item:
    """One entry of the list of items.

    Attributes:
        kind: four characters of its type.
        extents: where pieces of its data start in the file, and their lengths.
        properties: its property boxes.
        cells: numbers of the items that it is composed of, repeats included.
        helps: numbers of the items of which it is an auxiliary picture, such as alpha.
    """

    kind: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[Box] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    helps: list[int] = field(default_factory=list)


def parts_of(data: bytes) -> Parts:
    """Return the sizes that a file states in its boxes, and in the headers of coded pictures.

    Raises:
        ValueError: the boxes or headers are damaged, or many times more than any encoder writes.
    """
    source = _Source(data)
    reader = _Reader(source)
    sizes: list[Size] = []
    kinds: set[bytes] = set()
    composed = 0
    try:
        for kind, start, stop in source.boxes(0, len(data)):
            if kind == b"meta":
                items, primary = _items(source, start + 4, stop)
                kinds |= {item.kind for item in items.values()}
                sizes += [size for item in items.values() for size in reader.sizes_of(item)]
                shown = [primary, *(n for n, item in items.items() if primary in item.helps)]
                composed = max([composed, *(reader.pixels_of(items, each) for each in shown)])
            elif kind == b"moov":
                tracks = _tracks(source, start, stop)
                sizes += [size for track in tracks for size in reader.of(track)]
    except (struct.error, IndexError) as error:
        raise ValueError("the boxes of the file are damaged") from error
    return Parts(max(sizes, key=math.prod, default=(0, 0)), composed, frozenset(kinds))


def metadata_ranges(data: bytes) -> list[tuple[int, int]]:
    """Return where the content of each metadata box starts and stops.

    Raises:
        ValueError: the file has many times more boxes than any encoder writes.
    """
    source = _Source(data)
    return [(start, stop) for kind, start, stop in source.boxes(0, len(data)) if kind == b"meta"]


class _Source:
    """A file, with a limit on the steps of reading it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._steps = _MOST_STEPS

    def count(self) -> None:
        """Count one step.

        Raises:
            ValueError: it is one too many.
        """
        self._steps -= 1
        if self._steps < 0:
            raise ValueError("the file has too many boxes or coded units")

    def number(self, start: int, count: int) -> int:
        """Return an unsigned number.

        Raises:
            ValueError: the data ends within it.
        """
        self.count()
        if start + count > len(self.data):
            raise ValueError("the boxes of the file end too early")
        return int.from_bytes(self.data[start : start + count], "big")

    def boxes(self, start: int, stop: int) -> Iterator[Box]:
        """Yield the boxes in a range of the file, without the boxes within them."""
        data, end = self.data, min(stop, len(self.data))
        while start + 8 <= end:
            self.count()
            size, content = int.from_bytes(data[start : start + 4], "big"), start + 8
            if size == 1:
                size, content = int.from_bytes(data[start + 8 : start + 16], "big"), start + 16
            last = end if size < 8 else min(start + size, end)
            yield data[start + 4 : start + 8], content, last
            start = end if size < 8 else start + size

    def by_type(self, start: int, stop: int) -> dict[bytes, tuple[int, int]]:
        """Return where the content of each box in a range starts and stops, by its type.

        Raises:
            ValueError: the range has two boxes of a type that may be there once.
        """
        found: dict[bytes, tuple[int, int]] = {}
        for kind, first, last in self.boxes(start, stop):
            if kind in found and kind in _SINGLE:
                raise ValueError(f"the file has two boxes {kind.decode()!r} in one")
            found[kind] = first, last
        return found


class _Reader:
    """Reads the headers of coded pictures."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._data = data = source.data
        # No two pictures share their data, except in files made to be read again and again.
        self._bytes = 2 * len(data)
        self._coded: dict[tuple[object, ...], list[Size]] = {}
        self._pixels: dict[int, int] = {}

    def sizes_of(self, item: _Item) -> list[Size]:
        """Return every size that an item states: in its properties and in its coded picture."""
        stated = [
            struct.unpack_from(">II", self._data, start + 4)
            for kind, start, _ in item.properties
            if kind == b"ispe"
        ]
        return [*stated, *self.of(item)] if item.kind not in _DERIVED else stated

    def of(self, item: _Item) -> list[Size]:
        """Return the sizes in the headers of a coded picture, in its properties and its data."""
        key = (item.kind, tuple(item.extents), *item.properties)
        if key not in self._coded:
            self._coded[key] = list(self._read(item))
        return self._coded[key]

    def pixels_of(self, items: dict[int, _Item], number: int | None) -> int:
        """Return the pixels of all coded pictures of a composed one; 0 for any other item."""
        item = None if number is None else items.get(number)
        if number is None or item is None or item.kind not in _DERIVED:
            return 0
        if number not in self._pixels:
            # A picture that is composed of itself is left to the decoder, which refuses it.
            self._pixels[number] = 0
            self._pixels[number] = sum(self._cell_pixels(items, cell) for cell in item.cells)
        return self._pixels[number]

    def _cell_pixels(self, items: dict[int, _Item], number: int) -> int:
        cell = items.get(number, _Item())
        if cell.kind in _DERIVED:
            return self.pixels_of(items, number)
        return max(map(math.prod, self.sizes_of(cell)), default=0)

    def _read(self, item: _Item) -> Iterator[Size]:
        length_bytes = 4
        for kind, start, stop in item.properties:
            if kind == b"av1C":
                yield from av1_sizes(self._data[start + 4 : stop], self._source.count)
            elif kind == b"hvcC":
                length_bytes = (self._data[start + 21] & 3) + 1
                for unit in self._parameter_sets(start + 22):
                    yield from hevc_sizes(unit)
        if item.kind == b"av01":
            yield from av1_sizes(self._coded_data(item), self._source.count)
        elif item.kind in (b"hvc1", b"hev1"):
            coded = self._coded_data(item)
            position = 0
            while position + length_bytes < len(coded):
                self._source.count()
                size = int.from_bytes(coded[position : position + length_bytes], "big")
                position += length_bytes
                yield from hevc_sizes(coded[position : position + min(size, 1024)])
                position += size

    def _coded_data(self, item: _Item) -> bytes:
        self._bytes -= sum(length for _, length in item.extents)
        if self._bytes < 0:
            raise ValueError("the data of pictures in the file overlaps")
        return b"".join(self._data[start : start + length] for start, length in item.extents)

    def _parameter_sets(self, position: int) -> Iterator[bytes]:
        data = self._data
        arrays = data[position]
        position += 1
        for _ in range(arrays):
            count = int.from_bytes(data[position + 1 : position + 3], "big")
            position += 3
            for _ in range(count):
                self._source.count()
                size = int.from_bytes(data[position : position + 2], "big")
                yield data[position + 2 : position + 2 + size]
                position += 2 + size


def _items(source: _Source, start: int, stop: int) -> tuple[dict[int, _Item], int | None]:
    """Return the items of a metadata box by their numbers, and the number of the primary one."""
    data = source.data
    items: dict[int, _Item] = {}
    primary: int | None = None
    found = source.by_type(start, stop)
    if b"pitm" in found:
        first, _ = found[b"pitm"]
        primary = source.number(first + 4, 4 if data[first] else 2)
    if b"iinf" in found:
        first, last = found[b"iinf"]
        for kind, entry, _ in source.boxes(first + (8 if data[first] else 6), last):
            if kind == b"infe" and data[entry] >= 2:
                width = 4 if data[entry] > 2 else 2
                number = source.number(entry + 4, width)
                place = entry + 4 + width + 2
                item = items.setdefault(number, _Item())
                if item.kind:
                    raise ValueError("two pictures of the file have the same number")
                item.kind = data[place : place + 4]
    if b"iloc" in found:
        kept, _ = found.get(b"idat", (0, 0))
        _locate(source, found[b"iloc"][0], kept, items)
    if b"iprp" in found:
        _associate(source, *found[b"iprp"], items)
    if b"iref" in found:
        first, last = found[b"iref"]
        width = 4 if data[first] else 2
        for kind, entry, _ in source.boxes(first + 4, last):
            item = items.setdefault(source.number(entry, width), _Item())
            count = source.number(entry + width, 2)
            place = entry + width + 2
            others = [source.number(place + width * each, width) for each in range(count)]
            if kind == b"dimg":
                item.cells += others
            elif kind == b"auxl":
                item.helps += others
    return items, primary


def _locate(source: _Source, start: int, kept: int, items: dict[int, _Item]) -> None:
    """Add the places of the items' data.

    Args:
        source: the file.
        start: where the content of the location box starts.
        kept: where the content of the box with items' data starts.
        items: the items.
    """
    data = source.data
    version = data[start]
    offset_bytes, length_bytes = data[start + 4] >> 4, data[start + 4] & 15
    base_bytes = data[start + 5] >> 4
    index_bytes = data[start + 5] & 15 if version else 0
    number_bytes = 4 if version == 2 else 2
    count = source.number(start + 6, number_bytes)
    place = start + 6 + number_bytes
    for _ in range(count):
        item = items.setdefault(source.number(place, number_bytes), _Item())
        if item.extents:
            raise ValueError("a picture of the file is in two places")
        place += number_bytes
        in_metadata = version > 0 and data[place + 1] & 15 == 1
        place += 2 if version else 0
        base = source.number(place + 2, base_bytes) + (kept if in_metadata else 0)
        place += 2 + base_bytes
        extents = source.number(place, 2)
        place += 2
        for _ in range(extents):
            place += index_bytes
            offset = base + source.number(place, offset_bytes)
            place += offset_bytes
            length = source.number(place, length_bytes) if length_bytes else len(data) - offset
            place += length_bytes
            item.extents.append((offset, length))


def _associate(source: _Source, start: int, stop: int, items: dict[int, _Item]) -> None:
    """Add the property boxes of the items."""
    data = source.data
    found = source.by_type(start, stop)
    properties = list(source.boxes(*found.get(b"ipco", (0, 0))))
    for kind, place, _ in source.boxes(start, stop):
        if kind != b"ipma":
            continue
        number_bytes = 4 if data[place] else 2
        wide = data[place + 3] & 1
        count = source.number(place + 4, 4)
        place += 8
        for _ in range(count):
            item = items.setdefault(source.number(place, number_bytes), _Item())
            place += number_bytes
            associations = data[place]
            place += 1
            for _ in range(associations):
                index = source.number(place, 1 + wide) & (0x7FFF if wide else 0x7F)
                place += 1 + wide
                if 0 < index <= len(properties):
                    item.properties.append(properties[index - 1])


def _tracks(source: _Source, start: int, stop: int) -> Iterator[_Item]:
    """Yield the first picture of each track of a sequence, as an item of each of its formats.

    Decoders skip formats that they do not know, so any entry may be the one that they take.
    """
    for track in _within(source, start, stop, b"trak"):
        for table in _within(source, *track, b"mdia", b"minf", b"stbl"):
            found = source.by_type(*table)
            if not {b"stsd", b"stsz"} <= found.keys():
                continue
            chunks = [
                (found[kind][0], width)
                for kind, width in ((b"stco", 4), (b"co64", 8))
                if kind in found
            ]
            if len(chunks) > 1:
                raise ValueError("the file tells the places of its pictures twice")
            sizes, _ = found[b"stsz"]
            size = source.number(sizes + 4, 4) or source.number(sizes + 12, 4)
            extents = [(source.number(chunk + 8, width), size) for chunk, width in chunks]
            entries, stop_entries = found[b"stsd"]
            for kind, entry, last in source.boxes(entries + 8, stop_entries):
                yield _Item(kind, extents, list(source.boxes(entry + _SAMPLE_ENTRY_BYTES, last)))


def _within(source: _Source, start: int, stop: int, *path: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the boxes at a path of types start and stop."""
    for kind, first, last in source.boxes(start, stop):
        if kind == path[0]:
            if len(path) == 1:
                yield first, last
            else:
                yield from _within(source, first, last, *path[1:])
