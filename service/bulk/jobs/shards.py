"""Webdataset shards: pictures in tar files, read by their byte ranges."""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from legrad_engine.images.formats import SUFFIXES
from legrad_engine.storage import open_place
from service.bulk.jobs.listed import Listed

# Headers are 512 bytes each, and the pictures between them are not wanted.
_READ_AHEAD = 2**15


def list_shard(uri: str, etag: str) -> Iterator[Listed]:
    """List the pictures of a shard by its headers.

    Args:
        uri: the shard, an uncompressed tar file.
        etag: the shard's.

    Raises:
        tarfile.TarError, OSError: the shard is damaged, or cannot be read.
    """
    file_system, path = open_place(uri)
    with (
        file_system.open(path, "rb", block_size=_READ_AHEAD) as stream,
        tarfile.open(fileobj=stream, mode="r:") as shard,
    ):
        end = 0
        for member in shard:
            end = member.offset_data + member.size
            name = PurePosixPath(member.name)
            if not member.isreg() or name.name.startswith("."):
                continue
            if name.suffix.lower() in SUFFIXES:
                # Two members may have one name.
                place = f"{etag}@{member.offset_data}"
                yield Listed(
                    f"{uri}#{member.name}", place, member.size, uri, offset=member.offset_data
                )
        size = file_system.size(path)
        # The library takes a tar file that ends within its last member for a whole one.
        if size is not None and end > size:
            raise tarfile.ReadError("the file is truncated")
