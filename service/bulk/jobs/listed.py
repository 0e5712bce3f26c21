"""One picture of a job's list, and its way into Arrow tables. Holds no bytes of the picture."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Self

import pyarrow as pa

from legrad_engine.storage import etag_of

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        ("size", pa.int64()),
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("column", pa.string()),
        ("row_group", pa.int64()),
        ("row", pa.int64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Listed:
    """Where a picture's bytes are.

    Attributes:
        uri: identifies the picture: of its file; of its shard, ``#`` and the name in it; or of its
            Parquet file, ``#row=`` and the row.
        etag: changes when the picture does.
        size: bytes of the picture, if known.
        source: URI of the file that holds the bytes, if that is not ``uri``.
        offset: first byte of the picture in a shard.
        column: column of a Parquet file that holds the bytes.
        row_group: row group of the Parquet file.
        row: row in the row group.
        error: reason why the picture cannot be read, or None.
        id: hash of uri, etag and question, in hexadecimal; empty before :func:`identified`.
    """

    uri: str
    etag: str
    size: int | None = None
    source: str | None = None
    offset: int | None = None
    column: str | None = None
    row_group: int | None = None
    row: int | None = None
    error: str | None = None
    id: str = ""

    @classmethod
    def of_file(cls, uri: str, info: dict[str, object]) -> Self:
        """Make the entry of a file from its entry in a listing of fsspec.

        Raises:
            Exception: see :func:`legrad_engine.storage.etag_of`.
        """
        size = info.get("size")
        return cls(uri, etag_of(uri, info), size if isinstance(size, int) else None)


def identified(listed: Iterable[Listed], question: str) -> dict[str, Listed]:
    """Return pictures by their ids; repeated ones once.

    Args:
        listed: pictures without ids.
        question: hash of everything except the picture that its row depends on.
    """
    found: dict[str, Listed] = {}
    for each in listed:
        content = "\0".join((each.uri, each.etag, question)).encode()
        key = hashlib.blake2b(content, digest_size=16).hexdigest()
        found.setdefault(key, replace(each, id=key))
    return found


def in_blocks(listed: Sequence[Listed], most: int) -> list[Sequence[Listed]]:
    """Divide pictures into blocks, in order.

    Row groups of Parquet files, which are read whole, are divided only if they exceed a block.

    Args:
        listed: the pictures.
        most: most pictures of a block.
    """
    blocks: list[list[Listed]] = []
    for group, members in groupby(listed, lambda each: (each.source, each.row_group)):
        together = list(members)
        # Pictures of other inputs have no row group, and are read one by one.
        step = 1 if group[1] is None else most
        for start in range(0, len(together), step):
            part = together[start : start + step]
            if blocks and len(blocks[-1]) + len(part) <= most:
                blocks[-1] += part
            else:
                blocks.append(part)
    return list(blocks)


def to_table(listed: Sequence[Listed]) -> pa.Table:
    """Return pictures as a table of :data:`SCHEMA`."""
    return pa.Table.from_pylist([asdict(each) for each in listed], schema=SCHEMA)


def of_table(table: pa.Table) -> list[Listed]:
    """Return the pictures of a table of :data:`SCHEMA`."""
    return [Listed(**row) for row in table.select(SCHEMA.names).to_pylist()]
