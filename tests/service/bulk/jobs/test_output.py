"""The output of a job: rows count once they are committed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk.jobs.errors import JobError
from service.bulk.jobs.listed import Listed
from service.bulk.jobs.output import Output
from service.bulk.jobs.rows import MapType, error_row, schema_of, to_table


def rows(*keys: str) -> pa.Table:
    listed = [Listed(f"file:///{key}.png", "etag", id=key) for key in keys]
    return to_table(
        [error_row(each, "broken", "image-decode-failed") for each in listed], "float32"
    )


def write(output: Output, name: str, keys: tuple[str, ...], *, committed: bool) -> Path:
    folder, record = Path(output.rows_path), Path(output.committed_path)
    folder.mkdir(parents=True, exist_ok=True)
    record.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows(*keys), folder / f"{name}-0.parquet")
    ending = ".parquet" if committed else ".pending.parquet"
    pq.write_table(pa.table({"id": list(keys)}), record / f"{name}{ending}")
    return folder / f"{name}-0.parquet"


def failed(key: str) -> dict[str, Any]:
    return error_row(Listed(f"file:///{key}.png", "etag", id=key), "died", "not-computed")


def test_rows_of_tasks_that_died_never_count_and_are_removed_by_the_next_run(
    tmp_path: Path,
) -> None:
    output = Output(str(tmp_path), "q1")
    whole = write(output, "uuid_000000", ("a", "b"), committed=True)
    died = write(output, "uuid_000001", ("a", "c"), committed=False)
    cut = write(output, "uuid_000002", ("d",), committed=False)
    cut.write_bytes(cut.read_bytes()[:20])
    assert output.ids() == {"a", "b"}
    assert output.rows() == ({"a": 1, "b": 1}, {"a", "b"})
    with output.begin({}, ()):
        assert [path.exists() for path in (whole, died, cut)] == [True, False, False]


def test_rows_of_tasks_that_died_in_a_run_are_removed_at_its_end(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "q1")
    with output.begin({}, ()):
        died = write(output, "uuid_000000", ("a",), committed=False)
    assert not died.exists()


def test_a_run_with_nothing_to_write_leaves_the_rows_that_another_one_is_about_to_commit(
    tmp_path: Path,
) -> None:
    writing, reading = Output(str(tmp_path), "q1"), Output(str(tmp_path), "q1")
    with writing.begin({}, ("a",)):
        written = write(writing, "uuid_000000", ("a",), committed=False)
        assert reading.rows() == ({}, set())
        assert written.exists()
        committed = Path(writing.committed_path)
        (committed / "uuid_000000.pending.parquet").rename(committed / "uuid_000000.parquet")
    assert writing.rows() == ({"a": 1}, {"a"})


def test_rows_to_try_again_are_there_until_a_run_tries_them(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "q1")
    output.write_failed([failed("a")], "float32")
    assert output.rows() == ({"a": 1}, {"a"})
    assert output.ids() == set()
    with output.begin({"model": "starter", "weights": "blake2b:1"}, {"a", "b"}):
        assert output.rows() == ({}, set())
    assert output.known_weights("starter") == ["blake2b:1"]
    assert output.known_weights("other") == []


@pytest.mark.parametrize("maps", ["float16", "float32"])
def test_rows_to_try_again_of_another_input_stay(tmp_path: Path, maps: MapType) -> None:
    output = Output(str(tmp_path), "q1")
    output.write_failed([failed("a"), failed("b")], maps)
    with output.begin({}, {"b", "c"}):
        assert output.rows() == ({"a": 1}, {"a"})
        output.write_failed([failed("c")], maps)
    assert output.rows() == ({"a": 1, "c": 1}, {"a", "c"})
    with output.begin({}, {"d"}):
        pass
    assert output.rows() == ({"a": 1, "c": 1}, {"a", "c"})
    schema = pq.read_schema(Path(output.rows_path) / "failed.parquet")
    assert schema.metadata == schema_of(maps).metadata


def test_two_runs_into_one_output_refuse_each_other(tmp_path: Path) -> None:
    first, second = Output(str(tmp_path), "q1"), Output(str(tmp_path), "q1")
    with (
        first.begin({}, ()),
        pytest.raises(JobError, match="Another run writes"),
        second.begin({}, ()),
    ):
        pass


def test_runs_of_two_questions_share_one_output(tmp_path: Path) -> None:
    first, second = Output(str(tmp_path), "q1"), Output(str(tmp_path), "q2")
    with first.begin({}, ()), second.begin({}, ()):
        write(first, "uuid_000000", ("a",), committed=True)
        write(second, "uuid_000000", ("b",), committed=True)
    assert (first.ids(), second.ids()) == ({"a"}, {"b"})


def test_rows_are_written_into_the_folder_of_that_name(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "my rows"), "q1")
    output.write_failed([], "float32")
    assert [each.name for each in tmp_path.iterdir()] == ["my rows"]


def test_an_output_that_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    output = Output(str(tmp_path / "file"), "q1")
    with pytest.raises(JobError, match="cannot be written"), output.begin({}, ()):
        pass


def test_a_damaged_record_is_refused_with_the_way_out(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "q1")
    write(output, "uuid_000000", ("a",), committed=True)
    (Path(output.committed_path) / "uuid_000000.parquet").write_bytes(b"damaged")
    with pytest.raises(JobError, match="remove the damaged file"):
        output.ids()


def test_damaged_rows_to_try_again_are_refused_with_the_way_out(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "q1")
    output.write_failed([failed("a")], "float32")
    (Path(output.rows_path) / "failed.parquet").write_bytes(b"damaged")
    with pytest.raises(JobError, match="remove the damaged file"), output.begin({}, ()):
        pass


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(JobError, match="use a scheme that fsspec knows"):
        Output("xyz://bucket", "q1")
