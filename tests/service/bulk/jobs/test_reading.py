"""Reading of listed pictures: each row group once, and few of them in memory."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from legrad_engine import Explainer
from service.bulk.jobs import reading
from service.bulk.jobs.computing import ListedExplainer
from service.bulk.jobs.listed import Listed, identified, in_blocks
from service.bulk.jobs.listing import list_input
from service.bulk.jobs.parquet_input import read_cells
from service.bulk.jobs.reading import BLOCK, Reader, UnreadableError
from service.bulk.questions import Question
from tests.support.pictures import encoded, picture


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each row group was read."""
    counted: Counter[int] = Counter()
    read = read_cells

    def counting(stream: Any, row_group: int, column: str) -> list[bytes | None]:
        counted[row_group] += 1
        return read(stream, row_group, column)

    monkeypatch.setattr(reading, "read_cells", counting)
    return counted


def table(folder: Path, cells: list[bytes], row_group: int) -> list[Listed]:
    path = folder / "pictures.parquet"
    pq.write_table(pa.table({"image": cells}), path, row_group_size=row_group)
    return list(identified(list_input(str(path), str(folder / "out")).pictures, "q").values())


def bytes_of(number: int) -> list[bytes]:
    return [str(index).encode() for index in range(number)]


def test_blocks_that_run_at_once_read_each_row_group_once(
    tiny_model: str, tmp_path: Path, reads: Counter[int]
) -> None:
    cells = [encoded(picture(40, 30, seed=seed), "PNG") for seed in range(2 * BLOCK)]
    listed = table(tmp_path, cells, BLOCK)
    question = Question("tiny", ("a cat",))
    explainer = ListedExplainer(Explainer.load(tiny_model), question, 8, "float32")
    with ThreadPoolExecutor(2) as blocks:
        found = list(blocks.map(explainer.explain, in_blocks(listed, BLOCK)))
    assert [len(each.rows) for each in found] == [BLOCK, BLOCK]
    assert reads == {0: 1, 1: 1}


def test_row_groups_that_are_read_in_turn_are_read_once(
    tmp_path: Path, reads: Counter[int]
) -> None:
    cells = bytes_of(200)
    listed = table(tmp_path, cells, 100)
    reader = Reader()
    for row in range(100):
        assert reader.read(listed[row]) == cells[row]
        assert reader.read(listed[100 + row]) == cells[100 + row]
    assert reads == {0: 1, 1: 1}


def test_no_more_large_row_groups_are_kept_than_blocks_run_at_once(
    tmp_path: Path, reads: Counter[int]
) -> None:
    listed = table(tmp_path, bytes_of(300), 100)
    reader = Reader()
    for row in (0, 100, 200, 100, 0):
        reader.read(listed[row])
    assert reads == {0: 2, 1: 1, 2: 1}


def test_the_small_row_groups_of_a_block_are_read_once(tmp_path: Path, reads: Counter[int]) -> None:
    listed = table(tmp_path, bytes_of(2 * BLOCK), 2)
    reader = Reader()
    for each in [*listed[::2], *listed[1::2]]:
        reader.read(each)
    assert reads == dict.fromkeys(range(BLOCK), 1)


def test_a_row_group_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    listed, reader = table(tmp_path, bytes_of(4), 4), Reader()
    path = tmp_path / "pictures.parquet"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UnreadableError, match="no longer there"):
        reader.read(listed[0])
    path.write_bytes(content)
    assert reader.read(listed[0]) == b"0"
