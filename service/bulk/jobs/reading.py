"""Reading the bytes of listed pictures from their storage."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

from legrad_engine.errors import in_one_line
from legrad_engine.storage import StorageError, open_place
from service.bulk.jobs.listed import Listed
from service.bulk.jobs.parquet_input import read_cells

BLOCK = 32
"""Most pictures of a block: when a process dies, its whole block is lost and repeated."""
BLOCKS_AT_ONCE = 2
"""While one block is computed, the first pictures of the next are decoded."""

_Cells = Sequence[bytes | None]
_Group = tuple[str, int, str]


class UnreadableError(Exception):
    """The bytes of a picture cannot be read now; another attempt may succeed."""


class Reader:
    """Reads pictures, from several threads; keeps the last row groups of Parquet files."""

    def __init__(self) -> None:
        self._row_groups = _RowGroups()

    def read(self, listed: Listed) -> bytes:
        """Read the bytes of a picture.

        Raises:
            UnreadableError: the storage does not give them.
        """
        try:
            if listed.column is not None:
                return self._cell(listed)
            file_system, path = open_place(listed.source or listed.uri)
            if listed.offset is None:
                return file_system.cat_file(path)  # type: ignore[no-any-return]
            if not listed.size:
                # No range of HTTP is empty: stores refuse it, or send the whole shard.
                return b""
            end = listed.offset + listed.size
            return file_system.cat_file(path, start=listed.offset, end=end)  # type: ignore[no-any-return]
        except (StorageError, UnreadableError) as error:
            raise UnreadableError(str(error)) from error
        except FileNotFoundError as error:
            raise UnreadableError("The file is no longer there.") from error
        # Each file system raises errors of its own.
        except Exception as error:
            raise UnreadableError(f"The file cannot be read: {in_one_line(error)}.") from error

    def _cell(self, listed: Listed) -> bytes:
        cells = self._row_groups.read(
            (listed.source or "", listed.row_group or 0, listed.column or "")
        )
        found = cells[listed.row or 0]
        if found is None:
            raise UnreadableError("The row holds no picture.")
        return found


class _RowGroups:
    """The row groups of the blocks in progress, each read once for all threads.

    Those used last are kept: one for each block, or more while they are small.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[_Group, Future[_Cells]] = OrderedDict()

    def read(self, group: _Group) -> _Cells:
        """Return the pictures of a row group.

        Raises:
            StorageError, pa.ArrowException, OSError: the file cannot be read.
        """
        with self._lock:
            known = self._held.get(group)
            reading = self._held.setdefault(group, Future())
            self._held.move_to_end(group)
            self._forget()
        if known is None:
            try:
                reading.set_result(_read(group))
            except BaseException as error:
                with self._lock:
                    # Another attempt may succeed.
                    if self._held.get(group) is reading:
                        del self._held[group]
                reading.set_exception(error)
        return reading.result()

    def _forget(self) -> None:
        rows = {
            group: len(each.result()) if each.done() and not each.exception() else 0
            for group, each in self._held.items()
        }
        while (
            len(self._held) > BLOCKS_AT_ONCE
            and sum(rows[group] for group in self._held) > BLOCK * BLOCKS_AT_ONCE
        ):
            self._held.popitem(last=False)


def _read(group: _Group) -> _Cells:
    source, number, column = group
    file_system, path = open_place(source)
    with file_system.open(path, "rb") as stream:
        return read_cells(stream, number, column)
