"""Only results for short texts are kept."""

import pytest

from service.routes.bodies.remembering import remember_short


def test_a_short_text_is_read_once_and_a_long_one_each_time() -> None:
    read: list[bytes] = []

    @remember_short
    def length(text: bytes) -> int:
        read.append(text)
        return len(text)

    short, long = b"a" * 256, b"a" * 257
    assert [length(short), length(short), length(long), length(long)] == [256, 256, 257, 257]
    assert read == [short, long, long]


def test_an_error_is_raised_each_time() -> None:
    @remember_short
    def number(text: str) -> int:
        return int(text)

    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            number("a")
    assert number("1") == 1
