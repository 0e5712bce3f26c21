"""Checkpoints by URI: downloaded once into a folder of this machine, under their checksum.

``NAME@s3://BUCKET/KEY#sha256=HEX``. The checksum names the folder of the file, so that a file that
is there is the right one, whoever downloaded it. Importing this module loads no torch.
"""

import errno
import hashlib
import ipaddress
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from huggingface_hub import constants

from legrad_engine.errors import ModelLoadError, UnknownModelError, in_one_line
from legrad_engine.storage import StorageError, open_place

_SCHEMES = ("s3", "gs", "gcs", "https", "http")
_CHECKSUM = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)
_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 60
# A download writes to its file all the time; another machine's is left alone for that long.
_ABANDONED_SECONDS = 3600
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class RemoteWeights:
    """A checkpoint by URI.

    Attributes:
        uri: its address, without the checksum.
        sha256: its checksum in hexadecimal.
    """

    uri: str
    sha256: str

    @classmethod
    def parse(cls, text: str) -> "RemoteWeights":
        """Check a URI with its checksum; no request is sent.

        Args:
            text: ``SCHEME://...#sha256=HEX``, see :func:`is_remote`.

        Raises:
            UnknownModelError: the scheme, the checksum or a part of the address is not accepted.
        """
        address, mark, fragment = text.rpartition("#")
        address = address if mark else text
        shown = _without_secrets(address)
        try:
            parts = _split(address)
            host = parts.hostname
        except ValueError as error:
            raise _refusal(shown, f"is not a URI ({error})") from error
        if parts.scheme not in _SCHEMES:
            raise _refusal(shown, "should begin with s3://, gs:// or https://")
        if not host or _name_of(parts) in ("", ".."):
            raise _refusal(shown, "should name a file in a bucket or on a server")
        if parts.username or parts.password or parts.query:
            raise _refusal(
                shown,
                "holds credentials or a query, which logs would show: give credentials in the "
                "environment, as the packages s3fs and gcsfs read them",
            )
        if parts.scheme == "http" and not _is_loopback(host):
            raise _refusal(shown, "should begin with https://: http is for this machine alone")
        checksum = _CHECKSUM.fullmatch(fragment if mark else "")
        if checksum is None:
            raise _refusal(
                shown,
                "needs the checksum of the file: add #sha256= and the 64 digits that `sha256sum` "
                "prints",
            )
        return cls(address, checksum[1].lower())

    @property
    def path(self) -> Path:
        """Path of the downloaded file on this machine."""
        return _folder() / self.sha256 / _name_of(_split(self.uri))

    def fetch(self) -> Path:
        """Return the path of the file, and download it first if it is not there.

        Processes that share the folder may fetch at the same time: one of them downloads, and the
        file appears once it is whole and its checksum is right.

        Raises:
            ModelLoadError: the file cannot be obtained or kept, or has another checksum.
        """
        path = self.path
        if path.is_file():
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(path.parent):
                if not path.is_file():
                    self._download(path)
        except OSError as error:
            raise ModelLoadError(
                f"{self.uri} cannot be kept in {path.parents[1]} ({in_one_line(error)}): check its "
                "free space and your rights, or set HF_HOME to another folder.",
                field="model",
            ) from error
        return path

    def _download(self, path: Path) -> None:
        # Its own name: another machine may not see the lock.
        descriptor, name = tempfile.mkstemp(suffix=".partial", dir=path.parent)
        os.close(descriptor)
        partial = Path(name)
        try:
            self._copy(partial)
            with partial.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
                os.fsync(stream.fileno())
            if found != self.sha256:
                raise ModelLoadError(
                    f"{self.uri} has the checksum sha256={found}, not {self.sha256}: it was "
                    "damaged, replaced, or the checksum is that of another file.",
                    field="model",
                )
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _copy(self, target: Path) -> None:
        """Download into a file.

        Raises:
            ModelLoadError: the file cannot be obtained.
            OSError: this machine has no space for it.
        """
        try:
            file_system, path = open_place(self.uri, **_options(self.uri))
            file_system.get_file(path, str(target))
        except StorageError as error:
            raise ModelLoadError(str(error), field="model") from error
        except FileNotFoundError as error:
            raise ModelLoadError(
                f"There is no checkpoint at {self.uri!r}.", field="model"
            ) from error
        # Each file system raises errors of its own.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise
            raise ModelLoadError(
                f"{self.uri} could not be downloaded: {in_one_line(error)}.", field="model"
            ) from error


def is_remote(checkpoint: str | None) -> bool:
    """Return whether a checkpoint is named by a URI, not by a tag or a path."""
    return checkpoint is not None and "://" in checkpoint


def local_path(checkpoint: str) -> Path:
    """Return the path where a checkpoint is, or will be, on this machine.

    Raises:
        UnknownModelError: an invalid URI.
    """
    return RemoteWeights.parse(checkpoint).path if is_remote(checkpoint) else Path(checkpoint)


def fetched(checkpoint: str) -> Path:
    """Return the path of a checkpoint on this machine, downloaded if it is named by a URI.

    Raises:
        UnknownModelError: an invalid URI.
        ModelLoadError: see :meth:`RemoteWeights.fetch`.
    """
    return RemoteWeights.parse(checkpoint).fetch() if is_remote(checkpoint) else Path(checkpoint)


def is_there(checkpoint: str) -> bool:
    """Return whether a checkpoint may be there: a file, or a valid URI, which is not opened.

    Raises:
        UnknownModelError: an invalid URI.
    """
    if is_remote(checkpoint):
        RemoteWeights.parse(checkpoint)
        return True
    return Path(checkpoint).is_file()


def _folder() -> Path:
    """Return the folder of downloaded checkpoints, on the volume of the hub's cache."""
    return Path(constants.HF_HOME) / "legrad" / "weights"


def _split(address: str) -> SplitResult:
    # Names of objects may hold a #.
    return urlsplit(address.replace("#", "%23"))


def _without_secrets(address: str) -> str:
    scheme, mark, rest = address.partition("?")[0].partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


def _name_of(parts: SplitResult) -> str:
    return PurePosixPath(unquote(parts.path)).name


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refusal(shown: str, reason: str) -> UnknownModelError:
    return UnknownModelError(f"The checkpoint {shown!r} {reason}.", field="model")


def _options(uri: str) -> dict[str, Any]:
    """Return options of the file system: a server may be slow, but not silent."""
    if not uri.startswith("http"):
        return {}
    try:
        from aiohttp import ClientTimeout
    except ImportError:
        # Opening the place says which package is missing.
        return {}
    limits = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    return {"client_kwargs": {"timeout": limits}}


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process of this machine downloads into a folder."""
    # POSIX alone; without it, two processes may download the same file.
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            # Some network volumes have no locks.
            yield
            return
        _remove_abandoned(folder)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    """Remove the files of processes that were killed; other machines may not see the lock."""
    for left in folder.glob("*.partial"):
        # Its owner may rename or remove it meanwhile.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()
