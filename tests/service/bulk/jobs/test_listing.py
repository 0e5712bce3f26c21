"""The list of a job's pictures: where each one's bytes are, and which inputs are refused."""

import io
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from service.bulk.jobs.errors import JobError
from service.bulk.jobs.listed import Listed, identified, of_table, to_table
from service.bulk.jobs.listing import list_input
from service.bulk.jobs.reading import Reader, UnreadableError
from tests.support.object_store import object_store
from tests.support.pictures import encoded, picture
from tests.support.web_folder import web_folder


def png(seed: int) -> bytes:
    return encoded(picture(20, 10, seed=seed), "PNG")


def names(pictures: "list[Listed] | tuple[Listed, ...]", folder: Path) -> list[str]:
    return [each.uri.removeprefix(f"file://{folder}/") for each in pictures]


def listed(place: Path, column: str | None = None) -> list[Listed]:
    return list(list_input(str(place), str(place / "out"), column).pictures)


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def test_a_folder_gives_its_pictures_by_their_endings(tmp_path: Path) -> None:
    for name in ("b.png", "more/a.JPG", ".hidden/c.png", ".d.png", "out/e.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    found = list_input(str(tmp_path), str(tmp_path / "out"))
    assert names(list(found.pictures), tmp_path) == ["b.png", "more/a.JPG"]
    assert [each.rpartition("/")[2] for each in found.skipped] == ["notes.txt"]
    assert Reader().read(found.pictures[0]) == png(1)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "Büro 1=a%"
    (folder / "mehr #2").mkdir(parents=True)
    (folder / "mehr #2" / "ä 1.png").write_bytes(png(1))
    (found,) = listed(folder)
    assert found.uri == f"file://{folder}/mehr #2/ä 1.png"
    assert Reader().read(found) == png(1)


def test_a_file_that_is_given_itself_is_a_picture_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(png(1))
    (found,) = listed(tmp_path / "picture")
    assert Reader().read(found) == png(1)


def test_an_id_changes_with_the_file_and_with_the_question(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(1))
    first = list(identified(listed(tmp_path), "one"))
    assert list(identified(listed(tmp_path), "one")) == first
    assert list(identified(listed(tmp_path), "two")) != first
    path.write_bytes(png(1) + b"changed")
    assert list(identified(listed(tmp_path), "one")) != first


def test_pictures_of_a_shard_are_read_by_their_byte_ranges(tmp_path: Path) -> None:
    members = {"1.png": png(1), "1.json": b"{}", "._2.png": b"x", "deep/2.png": png(2)}
    write_shard(tmp_path / "a.tar", members)
    found = of_table(to_table(listed(tmp_path)))
    assert names(found, tmp_path) == ["a.tar#1.png", "a.tar#deep/2.png"]
    reader = Reader()
    assert [reader.read(each) for each in found] == [png(1), png(2)]


def test_an_empty_picture_of_a_shard_is_empty_where_ranges_are_those_of_http(
    tmp_path: Path,
) -> None:
    write_shard(tmp_path / "a.tar", {"1.png": b"", "2.png": png(2)})
    with object_store():
        store = fsspec.filesystem("s3")
        store.mkdir("bucket")
        store.put_file(str(tmp_path / "a.tar"), "bucket/a.tar")
        found = list_input("s3://bucket/a.tar", str(tmp_path / "out")).pictures
        reader = Reader()
        assert [reader.read(each) for each in found] == [b"", png(2)]


def test_a_damaged_shard_keeps_the_pictures_before_the_damage(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2), "3.png": png(3)})
    write_shard(tmp_path / "b.tar", {"4.png": png(4)})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: whole.index(png(2)) + 10])
    found = listed(tmp_path)
    assert "a.tar#1.png" in names(found, tmp_path)
    assert "b.tar#4.png" in names(found, tmp_path)
    (damaged,) = (each for each in found if each.error)
    assert damaged.uri.endswith("a.tar")
    assert "cannot be read to its end" in str(damaged.error)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_of_a_table_are_read_by_row_groups(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"label": [1, 2, 3], "image": pa.array([png(1), png(2), None], kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = of_table(to_table(listed(tmp_path)))
    assert names(found, tmp_path) == [f"a.parquet#row={row}" for row in range(3)]
    reader = Reader()
    assert [reader.read(each) for each in found[:2]] == [png(1), png(2)]
    with pytest.raises(UnreadableError, match="holds no picture"):
        reader.read(found[2])


def test_bytes_may_be_beside_a_path_as_in_data_sets_of_hugging_face(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": [{"bytes": png(1), "path": "1.png"}]}), tmp_path / "a.parquet"
    )
    (found,) = listed(tmp_path / "a.parquet")
    assert Reader().read(found) == png(1)


def test_a_path_in_a_table_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "Büro 1=a%"
    folder.mkdir()
    (folder / "ä 1.png").write_bytes(png(1))
    pq.write_table(pa.table({"path": [f"{folder}/ä 1.png", "ä 1.png"]}), folder / "a.parquet")
    found = listed(folder / "a.parquet")
    assert [each.error for each in found] == [None, None]
    assert [Reader().read(each) for each in found] == [png(1), png(1)]


def test_a_table_may_name_pictures_by_their_uris(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    places = [
        "a.png",
        str(tmp_path / "a.png"),
        f"file://{tmp_path}/a.png",
        "b.png",
        None,
        "xyz://a",
    ]
    pq.write_table(pa.table({"file_name": places}), tmp_path / "a.parquet")
    found = listed(tmp_path / "a.parquet")
    assert len(found) == 6
    assert len(identified(found, "question")) == 4
    assert Reader().read(found[0]) == png(1)
    assert [each.error is None for each in found] == [True] * 3 + [False] * 3
    with_column = listed(tmp_path / "a.parquet", "file_name")
    assert with_column == found


@pytest.mark.parametrize(
    ("columns", "column", "told"),
    [
        ({"a": [b"1"], "b": [b"2"]}, None, "several columns"),
        ({"url": ["1"], "path": ["2"]}, None, "several columns"),
        ({"a": [1]}, None, "no column"),
        ({"a": [b"1"]}, "b", "has no column 'b'"),
        ({"a": [b"1"], "b": [1]}, "b", "should hold the bytes"),
    ],
)
def test_a_table_without_a_clear_column_is_refused(
    tmp_path: Path, columns: dict[str, list[object]], column: str | None, told: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(JobError, match=told):
        listed(tmp_path, column)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("absent", "There is no file or folder"),
        ("empty", "There is no picture below"),
        ("texts", "There is no picture below"),
        ("compressed", "unpack it to .tar"),
        ("xyz://bucket", "use a scheme that fsspec knows"),
        ("http://127.0.0.1:9/", "There is no file|cannot be listed|needs a package"),
    ],
)
def test_an_input_without_pictures_is_refused(tmp_path: Path, place: str, told: str) -> None:
    for folder in ("empty", "texts", "compressed"):
        (tmp_path / folder).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "compressed" / "a.tar.gz").write_bytes(b"")
    source = place if "://" in place else str(tmp_path / place)
    with pytest.raises(JobError, match=told):
        list_input(source, str(tmp_path / "out"))


@pytest.mark.parametrize("output", ["photos", "."])
def test_an_output_that_would_hide_the_input_is_named(
    tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(1))
    monkeypatch.chdir(tmp_path)
    for place in ("photos", "photos/a.png") if output == "." else ("photos",):
        with pytest.raises(JobError, match=f"lies in the output, {re.escape(output)}, .* -o"):
            list_input(place, output)
    # A name that only begins with that of the output.
    assert list_input("photos", "phot").pictures


def test_a_column_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    with pytest.raises(JobError, match="--column is for Parquet files"):
        listed(tmp_path, "image")


def test_a_file_that_has_gone_is_an_error_to_try_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (found,) = listed(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UnreadableError, match="no longer there"):
        Reader().read(found)


class UntoldFileSystem(LocalFileSystem):  # type: ignore[misc] # fsspec is not checked
    """The local file system, whose entries tell neither hashes nor times; loses some files."""

    protocol = "untold"

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Return the entry of a file."""
        told = super().info(path, **options)
        return {name: told[name] for name in ("name", "size", "type")}

    def _open(self, path: str, **options: Any) -> Any:
        if "lost" in path:
            raise FileNotFoundError(path)
        return super()._open(path, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("untold://")))

    def unstrip_protocol(self, name: str) -> str:
        """Return the URI of a path."""
        return f"untold://{self._strip_protocol(name)}"


@pytest.fixture
def untold(tmp_path: Path) -> str:
    fsspec.register_implementation("untold", UntoldFileSystem, clobber=True)
    return f"untold://{tmp_path}"


def ids(place: str) -> dict[str, str]:
    pictures = list_input(place, "memory://out").pictures
    return {each.uri.rpartition("/")[2]: key for key, each in identified(pictures, "q").items()}


def bmp(seed: int) -> bytes:
    return encoded(picture(4, 4, seed=seed), "BMP")


@pytest.mark.parametrize("tells_times", [True, False], ids=["times", "nothing"])
def test_a_replaced_picture_of_a_web_server_is_another_one(
    tmp_path: Path, tells_times: bool
) -> None:
    (tmp_path / "a.bmp").write_bytes(bmp(1))
    os.utime(tmp_path / "a.bmp", (1e9, 1e9))
    with web_folder(tmp_path, tells_times=tells_times) as place:
        before, again = (ids(f"{place}a.bmp") for _ in range(2))
        (tmp_path / "a.bmp").write_bytes(bmp(2))
        after = ids(f"{place}a.bmp")
    assert len(bmp(1)) == len(bmp(2))
    assert before == again
    assert before["a.bmp"] != after["a.bmp"]


def test_a_picture_of_which_nothing_is_told_is_known_by_its_bytes(
    tmp_path: Path, untold: str
) -> None:
    for name in ("a.bmp", "b.bmp"):
        (tmp_path / name).write_bytes(bmp(1))
    before = ids(untold)
    (tmp_path / "a.bmp").write_bytes(bmp(2))
    (tmp_path / "b.bmp").touch()
    after = ids(untold)
    assert before["a.bmp"] != after["a.bmp"]
    assert before["b.bmp"] == after["b.bmp"]


@pytest.mark.parametrize("ending", ["png", "tar", "parquet"])
def test_a_file_that_the_storage_loses_is_an_entry_with_an_error(
    tmp_path: Path, untold: str, ending: str
) -> None:
    (tmp_path / f"lost.{ending}").write_bytes(png(1))
    (found,) = list_input(untold, "memory://out").pictures
    assert "cannot be read" in (found.error or "")
