"""Identity of a model's weights, without loading them. Importing this module loads no torch.

Results that are kept, such as those of a folder of pictures, belong to the weights that computed
them. A name does not tell the weights: a file may be overwritten, and a repository may be updated.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from huggingface_hub import constants

from legrad_engine.errors import ModelLoadError
from legrad_engine.models import schemes
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.remote_weights import is_remote, local_path

_STARTER = Path(__file__).parents[1] / "starter"
# Configs, tokenizers and weights; a training folder also holds logs, which change all the time.
_READ_SUFFIXES = {
    ".json", ".txt", ".model", ".spm", ".tiktoken", ".safetensors", ".bin", ".pth", ".pt", ".tar"
}  # fmt: skip
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = "blake2b"

Stamps = tuple[tuple[str, int, int, int, int], ...]
"""Path, size, times of change and inode of each file: they differ once a file is written."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The weights, config and tokenizer of a model.

    Attributes:
        weights: hash of the local files, ``blake2b:HEX``; or ``ORG/REPO@COMMIT`` on the model hub.
        stamps: stamps of the local files from before they were read.
    """

    weights: str
    stamps: Stamps = ()

    @classmethod
    def of(cls, reference: ModelReference, earlier: Iterable[str] = ()) -> Self | None:
        """Identify a model.

        Args:
            reference: the model.
            earlier: values of ``weights`` that this reference had before. The repository of a
                pretrained tag is found in them, because the tables of tags load torch.

        Returns:
            None if the weights are not on this machine yet, or if only the tables of tags name
            their repository.

        Raises:
            ModelLoadError: a file cannot be read.
        """
        files = _local_files(reference)
        if is_remote(reference.pretrained) and not local_path(reference.pretrained or "").is_file():
            return None
        if files:
            return cls(*_hash_of(files))
        repository = _repository_of(reference.name)
        for name in [repository] if repository else [each.rpartition("@")[0] for each in earlier]:
            commit = _cached_commit(name)
            if commit is not None:
                return cls(f"{name}@{commit}")
        return None

    @classmethod
    def of_loaded(cls, reference: ModelReference, before: Self | None) -> Self:
        """Identify a model that has just been loaded.

        Args:
            reference: the model.
            before: its identity before it was loaded; None if it was not known.

        Raises:
            ModelLoadError: a file changed while the model was loaded, so it is unknown which
                content was read.
        """
        if before is not None and before.stamps:
            if _stamps(Path(path) for path, *_ in before.stamps) != before.stamps:
                raise ModelLoadError(
                    f"The files of {reference.title} changed while they were read: run it again "
                    "once they are complete.",
                    field="model",
                )
            return before
        in_name = _repository_of(reference.name) is not None
        found = cls.of(reference, () if in_name else [f"{_published(reference)}@"])
        if found is None:
            raise ModelLoadError(
                f"The files of {reference.title} are not in the cache of the model hub.",
                field="model",
            )
        return found


def file_stamps(reference: ModelReference) -> Stamps:
    """Return the stamps of the local files of a model, which are not read; empty without any."""
    try:
        return _stamps(_local_files(reference))
    except OSError:
        # A file is being replaced; the loader reports it if it stays away.
        return ()


def _local_files(reference: ModelReference) -> list[Path]:
    """List the local files that the loader reads; empty for a model on the hub."""
    name, checkpoint = reference.name, reference.pretrained
    if name == schemes.STARTER:
        return [_STARTER / "starter.json", _STARTER / "starter.safetensors"]
    files: list[Path] = []
    folder = None if reference.folder is None else Path(reference.folder).expanduser()
    if folder is not None and folder.is_dir():
        files += _files_in(folder)
    elif name.endswith(".json") and Path(name).is_file():
        files.append(Path(name))
    if checkpoint is not None and (path := local_path(checkpoint)).is_file():
        files.append(path)
    configs = [file for file in files if file.suffix == ".json"]
    return [*files, *(file for config in configs for file in _referred_to(config))]


def _files_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _READ_SUFFIXES and path.is_file()
    )


def _referred_to(config: Path) -> Iterator[Path]:
    """Yield the files of the folders that a config names: of its tokenizer or its towers."""
    try:
        texts = _texts_in(json.loads(config.read_bytes()))
    except (OSError, ValueError):
        # The loader reports a damaged config.
        return
    for text in texts:
        folder = Path(text.removeprefix(schemes.OPENCLIP_FOLDER))
        if "/" in text and folder.is_dir():
            yield from _files_in(folder)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)


def _hash_of(files: list[Path]) -> tuple[str, Stamps]:
    whole = hashlib.blake2b(digest_size=16)
    try:
        # Before the content: a file that changes while it is read has another stamp afterwards.
        stamps = _stamps(files)
        for path in files:
            with path.open("rb") as file:
                # The name tells a config from weights; the folder does not matter.
                whole.update(path.suffix.encode() + hashlib.file_digest(file, _HASH).digest())
    except OSError as error:
        raise ModelLoadError(
            f"{error.filename} cannot be read: {error.strerror}.", field="model"
        ) from error
    return f"{_HASH}:{whole.hexdigest()}", stamps


def _stamps(files: Iterable[Path]) -> Stamps:
    found = ((str(path), path.stat()) for path in files)
    return tuple(
        (path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        for path, stat in found
    )


def _repository_of(name: str) -> str | None:
    """Return the ``ORG/REPO`` or ``ORG/REPO@REVISION`` in a name with a scheme, or None."""
    scheme, _, rest = name.rpartition(":")
    return rest if scheme and "/" in rest else None


def _cached_commit(repository: str) -> str | None:
    """Return the commit that the hub's cache on this machine has of ``ORG/REPO[@REVISION]``."""
    name, _, revision = repository.partition("@")
    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    if _COMMIT.fullmatch(revision):
        return revision if (folder / "snapshots" / revision).is_dir() else None
    try:
        return (folder / "refs" / (revision or "main")).read_text().strip() or None
    except OSError:
        return None


def _published(reference: ModelReference) -> str:
    """Return the repository of a pretrained tag, from the tables of open_clip and timm."""
    # They import torch.
    from legrad_engine.models import openclip_models, timm_models

    if reference.name.startswith(schemes.TIMM):
        return timm_models.repository_of(reference.name)
    return openclip_models.repository_of(reference.name, reference.pretrained or "")
