"""Parquet files of pictures: a column of their bytes, or of their URIs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from legrad_engine.errors import in_one_line
from legrad_engine.storage import StorageError, open_place, uri_of
from service.bulk.jobs.errors import JobError
from service.bulk.jobs.listed import Listed

# Names of columns of URIs by convention; file_name is that of Hugging Face's picture folders.
_URI_NAMES = ("uri", "url", "path", "image_uri", "image_url", "image_path", "file_name")
_THREADS = 16


def list_table(uri: str, etag: str, column: str | None) -> Iterator[Listed]:
    """List the pictures of a Parquet file; of a column of bytes, no byte is read.

    Args:
        uri: the file.
        etag: the file's.
        column: column of bytes or URIs; None for the only column of bytes, or one of URIs that has
            a usual name.

    Raises:
        JobError: there is no such column, or several.
        pa.ArrowException, OSError: the file is damaged, or cannot be read.
    """
    file_system, path = open_place(uri)
    with file_system.open(path, "rb") as stream:
        table = pq.ParquetFile(stream)
        name = _column(uri, table.schema_arrow, column)
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if _holds_bytes(table.schema_arrow.field(name).type):
                for row in range(rows):
                    yield Listed(
                        f"{uri}#row={first + row}",
                        f"{etag}@{name}",
                        source=uri,
                        column=name,
                        row_group=group,
                        row=row,
                    )
            else:
                values = table.read_row_group(group, columns=[name]).column(0).to_pylist()
                yield from _referred(uri, etag, first, values)
            first += rows


def read_cells(stream: Any, row_group: int, column: str) -> list[bytes | None]:
    """Read the pictures of one row group; None where the table has none.

    Raises:
        pa.ArrowException, OSError: the file is damaged, or cannot be read.
    """
    values = pq.ParquetFile(stream).read_row_group(row_group, columns=[column]).column(0)
    if pa.types.is_struct(values.type):
        values = pa.chunked_array([chunk.field("bytes") for chunk in values.chunks])
    return values.to_pylist()  # type: ignore[no-any-return]


def _column(uri: str, schema: pa.Schema, asked: str | None) -> str:
    kinds = {field.name: field.type for field in schema}
    if asked is not None:
        if asked not in kinds:
            raise JobError(f"{uri} has no column {asked!r}: it has {_named(kinds)}.")
        if not _holds_bytes(kinds[asked]) and not _is_text(kinds[asked]):
            raise JobError(
                f"The column {asked!r} of {uri} holds {kinds[asked]}: it should hold the bytes of "
                "pictures, or URIs as text."
            )
        return asked
    of_bytes = [name for name, kind in kinds.items() if _holds_bytes(kind)]
    of_uris = [name for name in _URI_NAMES if _is_text(kinds.get(name, pa.null()))]
    found = of_bytes or of_uris
    if len(found) != 1:
        number = "several columns" if found else "no column"
        raise JobError(
            f"{uri} has {number} of the bytes or URIs of pictures: say which with --column. It has "
            f"{_named(kinds)}."
        )
    return found[0]


def _named(kinds: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "no columns"


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes: plain, or beside a path, as Hugging Face's data sets do."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _referred(table: str, etag: str, first: int, values: list[str | None]) -> Iterator[Listed]:
    """Look up the files that a table names."""
    folder = table.rpartition("/")[0]

    def look_up(numbered: tuple[int, str | None]) -> Listed:
        row, value = numbered
        if not value:
            return Listed(f"{table}#row={row}", etag, error="The row holds no URI.")
        # A relative path is relative to the table's own folder.
        place = value if "://" in value or value.startswith("/") else f"{folder}/{value}"
        try:
            file_system, path = open_place(place)
            return Listed.of_file(uri_of(file_system, path), file_system.info(path))
        except StorageError as error:
            return Listed(place, etag, error=str(error))
        # Each file system raises errors of its own.
        except Exception as error:
            return Listed(place, "", error=f"The file cannot be found: {in_one_line(error)}.")

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(look_up, enumerate(values, first))
