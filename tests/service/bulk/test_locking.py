"""Files of lines: one run at a time writes, and keeps what the one before it wrote."""

from pathlib import Path

import pytest

from service.bulk.locking import LinesWriter


class BusyError(Exception):
    pass


def test_the_kept_lines_are_read_once_the_folder_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.jsonl"
    first, second = LinesWriter(path, BusyError), LinesWriter(path, BusyError)

    first.begin(list)
    first.append(["one", "two"])
    first.append(["three"])
    first.close()
    second.begin(lambda: path.read_text().splitlines()[1:])
    second.append(["four"])
    second.close()

    assert path.read_text() == "two\nthree\nfour\n"


def test_a_second_writer_is_refused_until_the_first_one_closes(tmp_path: Path) -> None:
    first, second = (LinesWriter(tmp_path / "file.jsonl", BusyError) for _ in range(2))
    first.begin(list)

    with pytest.raises(BusyError, match="Another run writes into"):
        second.begin(list)
    first.close()
    second.begin(list)
    second.close()


def test_beginning_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    writer = LinesWriter(path, BusyError)
    writer.begin(lambda: ["one"])
    writer.begin(lambda: ["other"])
    writer.close()

    assert path.read_text() == "one\n"


def test_the_last_lines_replace_those_of_the_file_before_the_folder_is_unlocked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.jsonl"
    first, second = (LinesWriter(path, BusyError) for _ in range(2))
    first.begin(list)
    first.append(["old", "kept"])

    def last() -> list[str]:
        with pytest.raises(BusyError):
            second.begin(list)
        return ["kept"]

    first.close(last)
    assert path.read_text() == "kept\n"


def test_a_writer_that_never_began_leaves_no_file(tmp_path: Path) -> None:
    writer = LinesWriter(tmp_path / "file.jsonl", BusyError)
    with pytest.raises(RuntimeError, match="call begin first"):
        writer.append(["one"])
    writer.close(lambda: ["one"])

    assert list(tmp_path.iterdir()) == []
