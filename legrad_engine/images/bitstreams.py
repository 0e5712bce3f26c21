"""Frame sizes that coded pictures state in their own headers: AV1 and HEVC."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

Size = tuple[int, int]
"""(width, height) in pixels."""

# Longer than any header up to the fields that are read.
_HEAD_BYTES = 512

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME, _REDUNDANT_HEADER = 1, 3, 6, 7
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_CHOSEN_BY_FRAME = 2

_HEVC_SPS = 33


class _Bits:
    """Reads fields of bits, most significant first.

    Raises ValueError where the data ends.
    """

    def __init__(self, data: bytes) -> None:
        self._left = 8 * len(data)
        self._value = int.from_bytes(data, "big")

    def read(self, count: int) -> int:
        if count > self._left:
            raise ValueError("a header of the coded picture ends too early")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def flag(self) -> bool:
        return self.read(1) == 1

    def exponential(self) -> int:
        """Read a number in Exp-Golomb code, which AV1 calls uvlc and HEVC ue(v)."""
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > 32:
                raise ValueError("a header of the coded picture is damaged")
        return (1 << zeros) - 1 + self.read(zeros)


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The fields of an AV1 sequence header that tell the size of frames.

    Attributes:
        size: size of every frame that states none of its own.
        most: largest size that a frame can state.
        is_still: whether no frame can state a size.
        time_bits: bits of the presentation time in a frame header; 0 without one.
        id_bits: bits of the frame's number; 0 without one.
        screen_content: 0, 1, or 2 where each frame chooses.
        whole_motion: 0, 1, or 2 where each frame chooses.
    """

    size: Size
    most: Size
    is_still: bool
    time_bits: int = 0
    id_bits: int = 0
    screen_content: int = _CHOSEN_BY_FRAME
    whole_motion: int = _CHOSEN_BY_FRAME


def av1_sizes(data: bytes, count_unit: Callable[[], None]) -> Iterator[Size]:
    """Yield the size of every sequence of an AV1 picture, and of frames that state their own.

    A frame that states its own size counts with the largest size that its field can hold.

    Args:
        data: open bitstream units (AV1 specification, section 5.3).
        count_unit: called for each unit.

    Raises:
        ValueError: a header is damaged.
    """
    sequence: _Sequence | None = None
    position = 0
    while position < len(data):
        count_unit()
        head = data[position]
        position += 2 if head & 4 else 1
        kind, size = head >> 3 & 15, len(data) - position
        if head & 2:
            size, position = _leb128(data, position)
        unit = data[position : position + min(size, _HEAD_BYTES)]
        position += size
        if kind == _SEQUENCE_HEADER:
            sequence = _av1_sequence(_Bits(unit))
            yield sequence.size
        elif (
            kind in (_FRAME_HEADER, _FRAME, _REDUNDANT_HEADER)
            and sequence is not None
            and not sequence.is_still
            and _states_size(_Bits(unit), sequence)
        ):
            yield sequence.most


def hevc_sizes(unit: bytes) -> Iterator[Size]:
    """Yield the size that a network unit of HEVC states: one for a sequence parameter set.

    Raises:
        ValueError: the parameter set is damaged.
    """
    if len(unit) < 2 or unit[0] >> 1 & 63 != _HEVC_SPS:
        return
    bits = _Bits(unit[2:_HEAD_BYTES].replace(b"\0\0\3", b"\0\0"))
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 88 + 8)
    present = [(bits.flag(), bits.flag()) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for has_profile, has_level in present:
        bits.read(88 * has_profile + 8 * has_level)
    bits.exponential()
    if bits.exponential() == 3:
        bits.flag()
    yield bits.exponential(), bits.exponential()


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of 7 bits for each byte, and the position after it."""
    value = 0
    for place, byte in enumerate(data[position : position + 8]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, position + place + 1
    raise ValueError("a unit of the coded picture has no size")


def _av1_sequence(bits: _Bits) -> _Sequence:
    bits.read(3 + 1)
    if bits.flag():
        bits.read(5)
        return _Sequence(*_frame_sizes(bits), is_still=True)
    time_bits = _operating_points(bits)
    sizes = _frame_sizes(bits)
    id_bits = 0
    if bits.flag():
        id_bits = bits.read(4) + 2
        id_bits += bits.read(3) + 1
    bits.read(3 + 4)
    if bits.flag():
        bits.read(2)
    screen_content = _CHOSEN_BY_FRAME if bits.flag() else bits.read(1)
    whole_motion = _CHOSEN_BY_FRAME
    if screen_content and not bits.flag():
        whole_motion = bits.read(1)
    return _Sequence(*sizes, False, time_bits, id_bits, screen_content, whole_motion)


def _operating_points(bits: _Bits) -> int:
    """Skip the timing of a sequence header; return the bits of a frame's presentation time."""
    time_bits = delay_bits = 0
    has_model = False
    if bits.flag():
        bits.read(64)
        has_equal_intervals = bits.flag()
        if has_equal_intervals:
            bits.exponential()
        has_model = bits.flag()
        if has_model:
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5)
            time_bits = bits.read(5) + 1
            if has_equal_intervals:
                time_bits = 0
    has_delays = bits.flag()
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if has_model and bits.flag():
            bits.read(2 * delay_bits + 1)
        if has_delays and bits.flag():
            bits.read(4)
    return time_bits


def _frame_sizes(bits: _Bits) -> tuple[Size, Size]:
    """Return the size of the sequence's frames, and the largest that its fields can hold."""
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    size = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    return size, (1 << width_bits, 1 << height_bits)


def _states_size(bits: _Bits, sequence: _Sequence) -> bool:
    """Return whether a frame header states a size of its own."""
    if bits.flag():
        return False
    kind, is_shown = bits.read(2), bits.flag()
    bits.read(sequence.time_bits if is_shown else 1)
    if kind != _SWITCH_FRAME and not (kind == _KEY_FRAME and is_shown):
        bits.flag()
    bits.flag()
    screen_content = sequence.screen_content
    if screen_content == _CHOSEN_BY_FRAME:
        screen_content = bits.read(1)
    if screen_content and sequence.whole_motion == _CHOSEN_BY_FRAME:
        bits.flag()
    bits.read(sequence.id_bits)
    return kind == _SWITCH_FRAME or bits.flag()
