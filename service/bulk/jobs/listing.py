"""Listing the pictures of a job's input, without reading any of their bytes."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from legrad_engine.errors import in_one_line
from legrad_engine.images.formats import SUFFIXES
from legrad_engine.storage import StorageError, etag_of, open_place, tells_changes, uri_of
from service.bulk.jobs.errors import JobError
from service.bulk.jobs.listed import Listed
from service.bulk.jobs.parquet_input import list_table
from service.bulk.jobs.shards import list_shard

# Each waits for storage most of the time.
_THREADS = 16
_PARQUET = (".parquet", ".pq")
_SHARD = ".tar"
_COMPRESSED_SHARDS = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Listing:
    """The pictures of an input.

    Attributes:
        pictures: without ids.
        skipped: URIs of files that are neither pictures nor of the input's kind.
    """

    pictures: Sequence[Listed]
    skipped: Sequence[str]


def list_input(place: str, output: str, column: str | None = None) -> Listing:
    """List a file, or everything below a folder, a bucket or a prefix.

    A folder is of one kind: pictures if its files have the endings of pictures, else webdataset
    shards (``.tar``), else Parquet files. A file that is given itself is a picture unless its
    ending tells otherwise. Hidden files and folders are left out, and so is everything below the
    output.

    Args:
        place: URI or path of the input.
        output: URI or path of the output.
        column: column of Parquet files that holds bytes or URIs; None to find it.

    Raises:
        JobError: the input does not exist, cannot be listed, holds no picture, or lies in the
            output.
    """
    try:
        files, base = _files_of(place)
        own = uri_of(*open_place(output)).rstrip("/") + "/"
    except StorageError as error:
        raise JobError(str(error)) from error
    if f"{base.rstrip('/')}/".startswith(own):
        raise JobError(
            f"{place} lies in the output, {output}, of which nothing is read: set another folder "
            "or prefix with -o, such as one below the pictures."
        )
    shown = {
        uri: info
        for uri, info in sorted(files.items())
        if not uri.startswith(own) and not _is_hidden(uri.removeprefix(base))
    }
    chosen, expand = _kind_of(place, shown, is_folder=place_is_folder(files, base))
    if column is not None and expand is not _tables:
        raise JobError(f"--column is for Parquet files, and {place} holds none to read.")
    if not chosen:
        ends = [uri for uri in shown if uri.endswith(_COMPRESSED_SHARDS)]
        hint = f" {ends[0]} is compressed: unpack it to .tar." if ends else ""
        raise JobError(
            f"There is no picture below {place}: files should have the endings of pictures, .tar "
            f"(webdataset) or .parquet.{hint}"
        )
    pictures = expand(chosen, column)
    if not pictures:
        raise JobError(f"The files of {place} hold no picture.")
    return Listing(pictures, [uri for uri in shown if uri not in chosen])


def place_is_folder(files: dict[str, dict[str, Any]], base: str) -> bool:
    """Return whether a listing is that of a folder, not of one file."""
    return base.rstrip("/") not in files


def _files_of(place: str) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the files of a place with their entries, by URI, and the place's own URI."""
    file_system, path = open_place(place)
    base = uri_of(file_system, path)
    try:
        if file_system.isfile(path):
            return {base.rstrip("/"): file_system.info(path)}, base
        if not file_system.isdir(path):
            raise JobError(f"There is no file or folder {place}.")
        found = file_system.find(path, detail=True)
    except JobError:
        raise
    # Each file system raises errors of its own.
    except Exception as error:
        raise JobError(
            f"{place} cannot be listed ({in_one_line(error)}): check its name, and the credentials "
            "that its package reads from the environment."
        ) from error
    return {uri_of(file_system, name): info for name, info in found.items()}, base


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(relative).parts)


_Expand = Callable[[dict[str, dict[str, Any]], str | None], list[Listed]]


def _kind_of(
    place: str, files: dict[str, dict[str, Any]], *, is_folder: bool
) -> tuple[dict[str, dict[str, Any]], _Expand]:
    """Choose the files of the input's kind, and how they become pictures."""
    if not is_folder:
        name = next(iter(files), place)
        if name.lower().endswith(_PARQUET):
            return files, _tables
        if name.lower().endswith(_SHARD):
            return files, _shards
        if name.lower().endswith(_COMPRESSED_SHARDS):
            return {}, _pictures
        return files, _pictures
    kinds: list[tuple[tuple[str, ...], _Expand]] = [
        (tuple(SUFFIXES), _pictures),
        ((_SHARD,), _shards),
        (_PARQUET, _tables),
    ]
    for endings, expand in kinds:
        chosen = {uri: info for uri, info in files.items() if uri.lower().endswith(endings)}
        if chosen:
            return chosen, expand
    return {}, _pictures


def _pictures(files: dict[str, dict[str, Any]], _: str | None) -> list[Listed]:
    def listed(uri: str) -> Listed:
        try:
            return Listed.of_file(uri, files[uri])
        # Each file system raises errors of its own.
        except Exception as error:
            return Listed(uri, "", error=f"The file cannot be read: {in_one_line(error)}.")

    # Only these ask the storage, and wait.
    unknown = [uri for uri, info in files.items() if not tells_changes(info)]
    with ThreadPoolExecutor(_THREADS) as pool:
        asked = dict(zip(unknown, pool.map(listed, unknown), strict=True))
    return [asked.get(uri) or listed(uri) for uri in files]


def _shards(files: dict[str, dict[str, Any]], _: str | None) -> list[Listed]:
    return _each(files, list_shard)


def _tables(files: dict[str, dict[str, Any]], column: str | None) -> list[Listed]:
    return _each(files, lambda uri, etag: list_table(uri, etag, column))


def _each(
    files: dict[str, dict[str, Any]], expand: Callable[[str, str], Iterable[Listed]]
) -> list[Listed]:
    """List the pictures in files; a file that cannot be read to its end is an entry with an error.

    Raises:
        JobError: from ``expand``, about the question rather than one file.
    """

    def listed(uri: str) -> list[Listed]:
        etag = ""
        found: list[Listed] = []
        try:
            etag = etag_of(uri, files[uri])
            # Those before the damage are kept.
            found.extend(expand(uri, etag))
        except JobError:
            raise
        except Exception as error:
            reason = f"The file cannot be read to its end: {in_one_line(error)}."
            found.append(Listed(uri, etag, error=reason))
        return found

    with ThreadPoolExecutor(_THREADS) as pool:
        return [each for members in pool.map(listed, files) for each in members]
