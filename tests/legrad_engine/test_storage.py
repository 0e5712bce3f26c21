"""Places by local path or URI: fsspec's file system and the path in it."""

from pathlib import Path

import pytest

from legrad_engine.storage import etag_of, open_place, uri_of


@pytest.mark.parametrize("name", ["Büro 1=a", "100%", "a%20b", "a#b?c", "[a]*"])
def test_a_local_path_is_the_file_of_that_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    file_system, path = open_place(str(tmp_path / name))
    assert path == str(tmp_path / name)
    assert file_system.cat_file(path) == b"content"
    # The URI opens the same file again.
    assert open_place(uri_of(file_system, path)) == (file_system, path)


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_place("my rows")[1] == f"{tmp_path}/my rows"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("ETag", '"a"', '"b"'),
        ("etag", "a", "b"),
        ("md5Hash", "a==", "b=="),
        ("Content-MD5", "a==", "b=="),
        ("Digest", "sha-256=a", "sha-256=b"),
        ("blob_id", "a", "b"),
        ("xet_hash", "a", "b"),
        ("sha", "a", "b"),
        ("mtime", 1.5, 2.5),
        ("LastModified", "2026-01-01", "2026-01-02"),
        ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT", "Fri, 02 Jan 2026 00:00:00 GMT"),
        ("modify", "20260101000000", "20260102000000"),
        ("modificationTime", 1, 2),
        ("created", 1.5, 2.5),
    ],
)
def test_a_file_of_the_same_size_that_has_changed_has_another_etag(
    name: str, before: object, after: object
) -> None:
    first, same, second = (
        etag_of("nowhere://file", {"size": 3, name: value}) for value in (before, before, after)
    )
    assert first == same != second


def test_a_hash_counts_and_not_the_time_of_another_copy() -> None:
    first, second = ({"size": 3, "blob_id": "a", "created": time} for time in (1, 2))
    assert etag_of("nowhere://file", first) == etag_of("nowhere://file", second)


def test_a_replaced_file_in_memory_has_another_etag() -> None:
    file_system, path = open_place("memory://pictures/a.png")
    etags = []
    for content in (b"abc", b"xyz"):
        file_system.pipe_file(path, content)
        etags.append(etag_of("memory://pictures/a.png", file_system.info(path)))
    assert etags[0] != etags[1]
