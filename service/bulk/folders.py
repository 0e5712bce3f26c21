"""Explain many pictures in batches, with decoding and writing in other threads; runs can resume.

Importing this module loads no torch: a run with nothing left to do needs no model.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from legrad_engine.images.file_formats import ENDINGS
from legrad_engine.models.identity import ModelIdentity
from service.bulk.manifest import Entry, Manifest
from service.bulk.questions import IdentifiedQuestion, Question, identified

if TYPE_CHECKING:
    from legrad_engine import Explainer
    from service.bulk.computing import ReadPicture

_BATCH = 8
_THREADS = 2


@dataclass(frozen=True)
class Outcome:
    """The manifest entries of one picture; none if an earlier run has explained it."""

    path: Path
    entries: Sequence[Entry] = ()

    @property
    def error(self) -> str | None:
        """The reason why the picture failed, or None."""
        return self.entries[0].error if self.entries else None


@dataclass(frozen=True)
class FoundPicture:
    """A picture whose explanation is asked for.

    Attributes:
        path: its file.
        name: its path relative to the output folder.
        digest: hash of its bytes; empty if it could not be read.
        encoded: its bytes; None if it could not be read.
        error: reason why it could not be read, or None.
    """

    path: Path
    name: str
    digest: str
    encoded: bytes | None = None
    error: str | None = None


def explain_pictures(
    question: Question,
    pictures: Sequence[Path],
    root: Path,
    output: Path,
    load: "Callable[[Question], Explainer]",
) -> Iterator[Outcome]:
    """Explain pictures into a folder and yield their outcomes in order.

    Args:
        question: the model, prompts and options.
        pictures: from :func:`service.bulk.discovery.find_pictures`.
        root: paths below ``output`` are those of the pictures relative to this folder.
        output: folder for overlays, maps and the manifest. Pictures that it already holds
            explanations of, by the same weights and with the same question, are skipped.
        load: loads the model and checks the question; called only if a picture is left to explain,
            and before anything is written.

    Raises:
        ManifestError: the existing manifest cannot be read.
        LegradError: from ``load``, the model's files changed while they were read, or the presence
            calibration is of other weights.
        OSError: the folder cannot be written to.
    """
    with Manifest(output) as manifest, ThreadPoolExecutor(_THREADS) as pool:
        run = _Run(question, pictures, root, output, manifest, pool)
        yield from run.outcomes(load)


class _Run:
    """One run over a list of pictures."""

    def __init__(
        self,
        question: Question,
        pictures: Sequence[Path],
        root: Path,
        output: Path,
        manifest: Manifest,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._question = question
        self._pictures = pictures
        self._root = root
        self._output = output
        self._manifest = manifest
        self._pool = pool

    def outcomes(self, load: "Callable[[Question], Explainer]") -> Iterator[Outcome]:
        question, pictures = self._question, self._pictures
        before = ModelIdentity.of(question.reference, self._manifest.weights_of(question.model))
        done = 0
        if before is not None:
            done = self._done_at_first(identified(question, before.weights))
        if done < len(pictures):
            explainer = load(question)
            identity = ModelIdentity.of_loaded(question.reference, before)
            asked = identified(question, identity.weights)
            if before is None or before.weights != identity.weights:
                # Loading has fetched other weights from the hub than those of the earlier results.
                done = self._done_at_first(asked)
        for path in pictures[:done]:
            yield Outcome(path)
        if done < len(pictures):
            yield from self._explain(explainer, asked, pictures[done:])

    def _done_at_first(self, asked: IdentifiedQuestion) -> int:
        """Count the pictures before the first one that is left to explain."""
        for start in range(0, len(self._pictures), _BATCH):
            chunk = self._pictures[start : start + _BATCH]
            left = self._pool.map(lambda path: self._find(asked, path) is not None, chunk)
            for position, is_left in enumerate(left, start):
                if is_left:
                    return position
        return len(self._pictures)

    def _explain(
        self, explainer: "Explainer", asked: IdentifiedQuestion, pictures: Sequence[Path]
    ) -> Iterator[Outcome]:
        # Imported here, because it loads torch.
        from service.bulk.computing import FolderExplainer

        # First, because it may refuse the question.
        computing = FolderExplainer(explainer, asked, self._output)
        self._manifest.begin()
        files = _output_files(
            self._pictures,
            self._root,
            asked,
            asked.question.slugs(explainer.head_count),
            {path: self._name(path) for path in self._pictures},
            self._manifest.overlays_of(asked.digest),
        )

        def read(path: Path) -> "ReadPicture | None":
            found = self._find(asked, path)
            return None if found is None else computing.read(found)

        def read_ahead(chunk: Sequence[Path]) -> "list[Future[ReadPicture | None]]":
            return [self._pool.submit(read, path) for path in chunk]

        chunks = [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
        ahead = read_ahead(chunks[0])
        for number, chunk in enumerate(chunks):
            waiting, ahead = ahead, read_ahead(chunks[number + 1]) if chunks[number + 1 :] else []
            ready = [each for future in waiting if (each := future.result()) is not None]
            explanations = computing.explain(ready)
            writing = {
                path: self._pool.submit(computing.write, each, explanations.get(path), files[path])
                for each in ready
                for path in [each.found.path]
            }
            for path in chunk:
                entries = writing[path].result() if path in writing else []
                if entries:
                    self._manifest.append(entries)
                yield Outcome(path, entries)

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self._output).replace(os.sep, "/")

    def _find(self, asked: IdentifiedQuestion, path: Path) -> FoundPicture | None:
        """Read a picture's bytes; return None if an earlier run has explained it."""
        name = self._name(path)
        try:
            encoded = path.read_bytes()
        except OSError as error:
            reason = f"The file cannot be read: {error.strerror or error}."
            return FoundPicture(path, name, "", error=reason)
        digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
        if self._manifest.is_done(name, digest, asked.digest, asked.question.prompts):
            return None
        return FoundPicture(path, name, digest, encoded)


def _output_files(
    pictures: Sequence[Path],
    root: Path,
    asked: IdentifiedQuestion,
    slugs: Sequence[str],
    names: Mapping[Path, str],
    earlier: Mapping[str, Sequence[str]],
) -> dict[Path, list[Path]]:
    """Return the paths of each picture's overlays below the output folder, one for each map.

    No two pictures share a file, also over several runs: a picture keeps its files, and another one
    that would get the same names gets its suffix or a number.

    Args:
        pictures: all pictures of the run.
        root: the paths of the pictures relative to this folder name the files.
        asked: the question.
        slugs: parts of the names of each picture's files, one for each map.
        names: the names of the pictures in the manifest.
        earlier: overlays that the folder holds for this question, by the name of the picture.
    """
    ending = ENDINGS[asked.question.format]
    owner = {overlay: picture for picture, drawn in earlier.items() for overlay in drawn}
    stems = Counter(path.relative_to(root).with_suffix("") for path in pictures)
    files: dict[Path, list[Path]] = {}
    for path in pictures:
        name = names[path]
        if len(earlier.get(name, ())) == len(slugs):
            files[path] = [Path(overlay) for overlay in earlier[name]]
            continue
        relative = path.relative_to(root)
        plain = relative.with_suffix("")
        number = 1
        stem = plain if stems[plain] == 1 else relative
        while True:
            named = [Path(asked.folder, f"{stem}-{slug}{ending}") for slug in slugs]
            if all(owner.get(each.as_posix(), name) == name for each in named):
                break
            stem = relative if number == 1 else relative.with_name(f"{relative.name}-{number}")
            number += 1
        owner |= {each.as_posix(): name for each in named}
        files[path] = named
    return files
