"""The output of a job: Parquet files of rows, and the record of those that are committed.

::

    OUT/question=DIGEST/*.parquet          rows; failed.parquet has those to try again
    OUT/_legrad/DIGEST/job.json            the question in full
    OUT/_legrad/DIGEST/committed/*.parquet ids of committed rows, one file for each file of rows

A file of rows counts once its ids are committed, under its own name. Another run may be about to
commit one that does not count yet, so that only the run that holds the lock removes such files.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from legrad_engine.errors import in_one_line
from legrad_engine.storage import StorageError, open_place, uri_of
from service.bulk.jobs.errors import JobError
from service.bulk.jobs.rows import MapType, to_table
from service.bulk.locking import only_writer

_RECORDS = "_legrad"
_FAILED = "failed"
_PENDING = ".pending.parquet"
_THREADS = 16


class Output:
    """Folder or prefix of the rows of one question."""

    def __init__(self, place: str, digest: str) -> None:
        """Open the storage; nothing is written.

        Raises:
            JobError: it cannot be opened.
        """
        try:
            self._fs, self._root = open_place(place, fresh=True)
        except StorageError as error:
            raise JobError(str(error)) from error
        self._place = place
        self.rows_path = f"{self._root}/question={digest}"
        self._record = f"{self._root}/{_RECORDS}/{digest}"
        self.committed_path = f"{self._record}/committed"
        self._failed_path = f"{self.rows_path}/{_FAILED}.parquet"

    @property
    def uri(self) -> str:
        """URI of the rows."""
        return uri_of(self._fs, self.rows_path)

    @property
    def file_system(self) -> pyarrow.fs.FileSystem:
        """The storage, as pyarrow takes it."""
        if self._is_local:
            return pyarrow.fs.LocalFileSystem()
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs))

    @contextmanager
    def begin(self, job: Mapping[str, Any], ids: Collection[str]) -> Iterator[None]:
        """Write the question's record, and keep other local runs out until the context ends.

        Rows of tasks that died before they committed are removed at the beginning, and again at
        an end without an error.

        Args:
            job: the record.
            ids: pictures of this run, whose rows in ``failed.parquet`` are removed. Those of other
                inputs stay.

        Raises:
            JobError: the output cannot be written, or another run writes into it.
        """
        with ExitStack() as held:
            with self._writing():
                if self._is_local:
                    self._fs.makedirs(self._record, exist_ok=True)
                    held.enter_context(only_writer(Path(self._record), JobError))
                content = json.dumps(job, indent=1, ensure_ascii=False)
                self._write(f"{self._record}/job.json", content.encode())
                self._remove_uncommitted()
                self._remove_failed(ids)
            yield
            with self._writing():
                self._remove_uncommitted()

    def known_weights(self, model: str) -> list[str]:
        """Return the identities of the weights that a model had in earlier jobs."""
        found = []
        for path in self._names(f"{self._root}/{_RECORDS}", "job.json"):
            try:
                job = json.loads(self._fs.cat_file(path))
                if job["model"] == model:
                    found.append(str(job["weights"]))
            except (OSError, ValueError, LookupError, TypeError):
                # The record of a job that was cut off.
                continue
        return found

    def ids(self) -> set[str]:
        """Return the ids of all committed rows, without those in ``failed.parquet``.

        Raises:
            JobError: a file cannot be read.
        """
        names = self._names(self.committed_path, ".parquet")
        return {key for (key,) in self._columns(names, ["id"])}

    def rows(self) -> tuple[Counter[str], set[str]]:
        """Count the rows of each id, and return the ids of rows with an error.

        Rows that are not committed are left out; those in ``failed.parquet`` are not.

        Raises:
            JobError: a file cannot be read.
        """
        committed, _ = self._files()
        found = self._columns(committed, ["id", "error"])
        return Counter(key for key, _ in found), {key for key, error in found if error is not None}

    def write_failed(self, rows: Sequence[Mapping[str, Any]], maps: MapType) -> None:
        """Add rows of pictures that the next run tries again to those of other inputs.

        Raises:
            JobError: they cannot be written.
        """
        with self._writing():
            before = self._failed()
            self._replace_failed(to_table([*(before.to_pylist() if before else ()), *rows], maps))

    @property
    def _is_local(self) -> bool:
        protocol = self._fs.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn errors of the storage into the job's own."""
        try:
            yield
        except JobError:
            raise
        # Each file system raises errors of its own.
        except Exception as error:
            raise JobError(
                f"{self._place} cannot be written ({in_one_line(error)}): check the folder or "
                "bucket, its free space and your rights."
            ) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn errors of files into the job's own."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise JobError(
                f"{self._place} cannot be read ({in_one_line(error)}): remove the damaged file, "
                "and the one of the same name below _legrad, and its pictures are computed again."
            ) from error

    def _failed(self) -> pa.Table | None:
        if not self._fs.exists(self._failed_path):
            return None
        with self._reading(), self._fs.open(self._failed_path, "rb") as stream:
            return pq.ParquetFile(stream).read()

    def _remove_failed(self, ids: Collection[str]) -> None:
        table = self._failed()
        if table is None:
            return
        kept = table.filter(pa.array([key not in ids for key in table["id"].to_pylist()]))
        if not kept.num_rows:
            self._fs.rm_file(self._failed_path)
        elif kept.num_rows < table.num_rows:
            self._replace_failed(kept)

    def _replace_failed(self, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        if self._is_local:
            self._fs.makedirs(self.rows_path, exist_ok=True)
        self._write(self._failed_path, sink.getvalue().to_pybytes())

    def _write(self, path: str, content: bytes) -> None:
        if not self._is_local:
            # Object stores show an object once it is whole.
            self._fs.pipe_file(path, content)
            return
        partial = Path(f"{path}.partial")
        partial.write_bytes(content)
        partial.replace(path)

    def _names(self, folder: str, ending: str) -> list[str]:
        try:
            found = self._fs.find(folder) if self._fs.isdir(folder) else []
        # Each file system raises errors of its own.
        except Exception as error:
            raise JobError(
                f"{self._place} cannot be listed ({in_one_line(error)}): check its name, and the "
                "credentials that its package reads from the environment."
            ) from error
        return [name for name in found if name.endswith(ending) and not name.endswith(_PENDING)]

    def _columns(self, files: Sequence[str], names: list[str]) -> list[tuple[Any, ...]]:
        """Read columns of files, as rows."""

        def read(path: str) -> list[tuple[Any, ...]]:
            with self._fs.open(path, "rb") as stream:
                table = pq.ParquetFile(stream).read(columns=names)
            return list(zip(*(table[name].to_pylist() for name in names), strict=True))

        with self._reading(), ThreadPoolExecutor(_THREADS) as pool:
            return [each for found in pool.map(read, files) for each in found]

    def _files(self) -> tuple[list[str], list[str]]:
        """Return the files of rows that count, and those whose ids are not committed."""
        names = self._names(self.rows_path, ".parquet")
        # Listed last, so that a file that is committed meanwhile counts.
        committed = {_stem(name) for name in self._names(self.committed_path, ".parquet")}
        counting: list[str] = []
        others: list[str] = []
        for name in names:
            stem = _stem(name)
            # One task may write several files: NAME-0, NAME-1.
            counts = stem == _FAILED or committed.intersection((stem, stem.rpartition("-")[0]))
            (counting if counts else others).append(name)
        return counting, others

    def _remove_uncommitted(self) -> None:
        for name in self._files()[1]:
            self._fs.rm_file(name)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")
