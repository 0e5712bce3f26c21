"""Sizes in the headers of coded pictures, against headers built field by field."""

from collections.abc import Sequence

import pytest

from legrad_engine.images.bitstreams import Size, av1_sizes, hevc_sizes
from tests.support.picture_files import BitWriter

SEQUENCE_HEADER, FRAME = 1, 6


def unit(kind: int, bits: BitWriter, *, extended: bool = False) -> bytes:
    data = bits.data
    assert len(data) < 128
    return bytes([kind << 3 | 2 | 4 * extended, *([0] if extended else []), len(data)]) + data


def still(width: int, height: int) -> bytes:
    bits = BitWriter().write((0, 3), (1, 1), (1, 1), (0, 5))
    bits.write((15, 4), (15, 4), (width - 1, 16), (height - 1, 16))
    return unit(SEQUENCE_HEADER, bits)


def video(width: int, height: int, *, timed: bool = False, numbered: bool = False) -> bytes:
    """Return the sequence header of a video, with or without the optional fields."""
    bits = BitWriter().write((0, 3), (0, 1), (0, 1))
    if timed:
        bits.write((1, 1), (1, 32), (30, 32), (0, 1))
        bits.write((1, 1), (9, 5), (1, 32), (9, 5), (4, 5))
    else:
        bits.write((0, 1))
    bits.write((1, 1), (1, 5))
    for level in (5, 9):
        bits.write((0, 12), (level, 5))
        if level > 7:
            bits.write((0, 1))
        if timed:
            bits.write((1, 1), (0, 10), (0, 10), (0, 1))
        bits.write((1, 1), (3, 4))
    bits.write((12, 4), (11, 4), (width - 1, 13), (height - 1, 12))
    bits.write(*([(1, 1), (3, 4), (1, 3)] if numbered else [(0, 1)]))
    bits.write((0, 3), (0, 4), (1, 1), (0, 2), (1, 1), (1, 1))
    return unit(SEQUENCE_HEADER, bits, extended=timed)


def shown_key_frame(states_size: bool, *, timed: bool = False, numbered: bool = False) -> bytes:
    bits = BitWriter().write((0, 1), (0, 2), (1, 1), (0, 5 * timed))
    bits.write((0, 1), (1, 1), (0, 1), (0, 7 * numbered), (int(states_size), 1), (0, 30))
    return unit(FRAME, bits)


def sizes(*units: bytes) -> Sequence[Size]:
    return list(av1_sizes(b"".join(units), lambda: None))


def test_a_still_picture_of_av1_states_its_size() -> None:
    assert sizes(still(16_384, 9_000)) == [(16_384, 9_000)]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("numbered", [False, True])
def test_a_frame_of_av1_that_states_its_own_size_counts_with_the_largest(
    timed: bool, numbered: bool
) -> None:
    header = video(64, 48, timed=timed, numbered=numbered)
    of_sequence = shown_key_frame(False, timed=timed, numbered=numbered)
    own = shown_key_frame(True, timed=timed, numbered=numbered)
    assert sizes(header, of_sequence) == [(64, 48)]
    assert sizes(header, own) == [(64, 48), (8192, 4096)]


def test_every_sequence_header_of_av1_counts_and_other_units_do_not() -> None:
    delimiter = bytes([2 << 3 | 2, 0])
    found = sizes(delimiter, still(64, 64), delimiter, still(9_000, 9_000))
    assert found == [(64, 64), (9_000, 9_000)]


def test_a_unit_of_av1_without_a_size_reaches_to_the_end() -> None:
    whole = still(300, 200)
    assert sizes(bytes([whole[0] & ~2]) + whole[2:]) == [(300, 200)]


def test_each_unit_of_av1_is_counted() -> None:
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    list(av1_sizes(bytes([2 << 3 | 2, 0]) * 1_000, count))
    assert counted == 1_000


@pytest.mark.parametrize("data", [still(64, 64)[:-6], b"\x0a", b"\x0a" + b"\xff" * 9])
def test_a_cut_header_of_av1_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="coded picture"):
        sizes(data)


def parameter_set(width: int, height: int, *, layers: int = 0, chroma: int = 1) -> bytes:
    bits = BitWriter().write((0, 4), (layers, 3), (1, 1), (0, 88), (93, 8))
    for layer in range(layers):
        bits.write((layer % 2, 1), (1, 1))
    if layers:
        bits.write((0, 2 * (8 - layers)))
    for layer in range(layers):
        bits.write((0, 88 * (layer % 2)), (90, 8))
    bits.exponential(0).exponential(chroma)
    if chroma == 3:
        bits.write((0, 1))
    data = bits.exponential(width).exponential(height).data
    # As a coder writes it: no three bytes look like the start of a unit.
    return bytes([33 << 1, 1]) + data.replace(b"\0\0", b"\0\0\3")


@pytest.mark.parametrize("layers", [0, 1, 6])
@pytest.mark.parametrize("chroma", [0, 1, 3])
def test_a_parameter_set_of_hevc_states_its_size(layers: int, chroma: int) -> None:
    data = parameter_set(16_384, 4_320, layers=layers, chroma=chroma)
    assert list(hevc_sizes(data)) == [(16_384, 4_320)]


def test_other_units_of_hevc_state_none() -> None:
    assert not list(hevc_sizes(bytes([32 << 1, 1]) + bytes(40)))
    assert not list(hevc_sizes(b"\x42"))


def test_a_cut_parameter_set_of_hevc_is_refused() -> None:
    with pytest.raises(ValueError, match="ends too early"):
        list(hevc_sizes(parameter_set(640, 480)[:14]))
