"""Opening of URIs by fsspec: local files, object stores, web servers. Loads no torch."""

import hashlib
from pathlib import Path
from typing import Any

from legrad_engine.errors import in_one_line

# How packages of fsspec name hashes of a file's content, and times of its change, in their entries.
_HASHES = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest"),
    *("xet_hash", "blob_id", "sha", "hex", "CRC"),
)
_TIMES = (
    *("mtime", "LastModified", "updated", "Last-Modified", "last_modified"),
    *("modify", "modificationTime", "modified", "created"),
)
_PIECE_BYTES = 2**20

EXTRA = "pip install 'legrad-service[storage]'"


class StorageError(Exception):
    """A place cannot be opened: its message says why, and what to do."""


def open_place(uri: str, *, fresh: bool = False, **options: Any) -> tuple[Any, str]:
    """Open the file system of a place.

    Args:
        uri: a URI with a scheme of fsspec, or a local path.
        fresh: keep no listings, so that files of other processes are seen at once.
        options: options of the scheme's file system.

    Returns:
        The :class:`fsspec.AbstractFileSystem`, one for each scheme and process, and the place's
        path in it.

    Raises:
        StorageError: the scheme is unknown, its package is missing, or the URI is invalid.
    """
    from fsspec.core import url_to_fs

    if fresh:
        options["use_listings_cache"] = False
    try:
        if "://" not in uri:
            # Not Path.as_uri(): fsspec takes %20 in a path for three characters.
            uri = f"file://{Path(uri).expanduser().absolute()}"
        return url_to_fs(uri, **options)  # type: ignore[no-any-return]
    except ImportError as error:
        raise StorageError(
            f"{uri} needs a package that is not installed ({in_one_line(error)}): {EXTRA}."
        ) from error
    except ValueError as error:
        raise StorageError(
            f"{uri} cannot be opened ({in_one_line(error)}): use a scheme that fsspec knows, such "
            "as s3://, gs:// or https://, or a local path."
        ) from error
    # Credentials of object stores, of which each package has errors of its own.
    except Exception as error:
        raise StorageError(f"{uri} cannot be opened: {in_one_line(error)}.") from error


def uri_of(file_system: Any, path: str) -> str:
    """Return the URI of a path in a file system: the same for every spelling of a place."""
    return str(file_system.unstrip_protocol(path))


def etag_of(uri: str, info: dict[str, Any]) -> str:
    """Return a text that changes when a file's content does.

    The file is read only if neither its entry nor its storage tells a hash or a time of change.

    Args:
        uri: the file.
        info: its entry in a listing of fsspec.

    Raises:
        StorageError: see :func:`open_place`.
        OSError: the storage does not give the file; other types are those of its package.
    """
    if tells_changes(info):
        return _etag(info)
    # Listings may tell less than an entry that is asked for.
    file_system, path = open_place(uri)
    info = file_system.info(path)
    return _etag(info) if tells_changes(info) else _digest(file_system, path)


def tells_changes(info: dict[str, Any]) -> bool:
    """Tell whether an entry in a listing has a hash of the file's content, or a time of change."""
    return any(info.get(name) for name in (*_HASHES, *_TIMES))


def _etag(info: dict[str, Any]) -> str:
    for name in _HASHES:
        if info.get(name):
            return str(info[name]).strip('"')
    changed = next(str(info[name]) for name in _TIMES if info.get(name))
    return f"{info.get('size')}-{changed}"


def _digest(file_system: Any, path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file_system.open(path, "rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
