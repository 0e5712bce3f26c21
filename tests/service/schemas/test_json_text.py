"""A member that appears twice is found at any depth, in any spelling of its name."""

import time

import pytest

from service.schemas.json_text import repeated_member


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": 1, "b": [1, 1], "c": {"a": 1}}', None),
        ("[1, 1, null]", None),
        ('{"a": 1, "a": 1}', ("a",)),
        (b'{"a": 1, "\\u0061": 2}', ("a",)),
        ('{"": 1, "": 2}', ("",)),
        ('{"a": {"b": [{}, {"c": 1, "d": 2, "c": 3}]}}', ("a", "b", 1, "c")),
        ('[[{"x": 1, "x": 1}]]', (0, 0, "x")),
        ('{"a": 1' + "0" * 5000 + ', "a": NaN}', ("a",)),
        ("[" * 150 + '{"a": 1, "a": 1}' + "]" * 150, (*[0] * 150, "a")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_path_of_a_repeated_member_is_found(
    text: bytes | str, path: tuple[str | int, ...] | None
) -> None:
    assert repeated_member(text) == path


def test_many_members_are_compared_fast() -> None:
    members = ",".join(f'"{number}": 0' for number in range(100_000))
    began = time.thread_time()
    assert repeated_member(f'{{{members}, "99999": 1}}') == ("99999",)
    assert time.thread_time() - began < 5
