"""Explain many pictures in batches, with decoding and writing in other threads; runs can resume."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image

from legrad_engine import ClassTarget, Explainer, Explanation, LegradError
from legrad_engine.devices import is_out_of_memory, release_cached_memory
from legrad_engine.families import Score
from legrad_engine.images.decoding import PreparedImage, decode
from legrad_engine.images.geometry import Fit, drawing_size, upsample
from legrad_engine.images.rendering import encode_npy, encode_png, normalize, overlay
from legrad_engine.images.statistics import summarize
from legrad_engine.layers import Layers
from service.bulk.manifest import Entry, Manifest

# Overlays are for viewing; the raw maps are written too.
LONGEST_SIDE = 2048
_BATCH = 8
_THREADS = 2
_PICTURE_SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A model, prompts and options, the same for every picture.

    Attributes:
        explainer: the loaded model.
        model: its name.
        prompts: texts to look for; labels or indices of classes for models without a text encoder.
        layers: explained blocks, see :meth:`Explainer.resolve_layers`.
        score: the explained score, or None for the model's default.
        size: side of the model's input in pixels, or None for the model's own.
        fit: how pictures are fitted to the input.
    """

    explainer: Explainer
    model: str
    prompts: tuple[str, ...]
    layers: Layers | None = None
    score: Score | None = None
    size: int | None = None
    fit: Fit = "squash"

    @property
    def targets(self) -> list[str] | list[ClassTarget]:
        """The prompts as targets of the engine."""
        if self.explainer.classifier is None:
            return list(self.prompts)
        return [
            ClassTarget(int(text)) if text.isdecimal() else ClassTarget(label=text)
            for text in self.prompts
        ]

    @property
    def digest(self) -> str:
        """Hash of everything except the picture that the results depend on."""
        asked = [
            self.model,
            self.prompts,
            self.explainer.resolve_layers(self.layers),
            self.explainer.resolve_score(self.score),
            self.size,
            self.fit,
        ]
        return hashlib.blake2b(json.dumps(asked).encode(), digest_size=8).hexdigest()

    def check(self) -> None:
        """Check the prompts and options without a picture.

        Raises:
            LegradError: the model does not accept a prompt or an option.
        """
        explainer = self.explainer
        explainer.resolver.resolve(self.targets, 1)
        explainer.resolve_layers(self.layers)
        explainer.resolve_score(self.score)
        explainer.plan(explainer.own_size, self.size, self.fit)


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
class _Read:
    path: Path
    name: str
    digest: str
    prepared: PreparedImage | None = None
    canvas: Image.Image | None = None
    error: str | None = None


def find_pictures(path: Path, output: Path) -> list[Path]:
    """Return the picture ``path``, or all pictures below the folder ``path`` in sorted order.

    Hidden files and folders are left out, and so is everything below ``output``, which holds the
    overlays of earlier runs.
    """
    if not path.is_dir():
        return [path]
    own = output.resolve()
    return sorted(
        each
        for each in path.rglob("*")
        if each.suffix.lower() in _PICTURE_SUFFIXES
        and each.is_file()
        and own not in each.resolve().parents
        and not any(part.startswith(".") for part in each.relative_to(path).parts)
    )


def explain_pictures(
    question: Question, pictures: Sequence[Path], root: Path, output: Path
) -> Iterator[Outcome]:
    """Explain pictures into a folder and yield their outcomes in order.

    Args:
        question: the model, prompts and options, already checked.
        pictures: from :func:`find_pictures`.
        root: paths below ``output`` are those of the pictures relative to this folder.
        output: folder for overlays, maps and the manifest. Pictures that it already holds
            explanations of, with the same question, are skipped.

    Raises:
        ManifestError: the existing manifest cannot be read.
        OSError: the folder cannot be written to.
    """
    output.mkdir(parents=True, exist_ok=True)
    stems = _output_stems(pictures, root)
    chunks = [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
    with Manifest(output) as manifest, ThreadPoolExecutor(_THREADS) as pool:

        def read_ahead(chunk: Sequence[Path]) -> "list[Future[_Read | None]]":
            return [pool.submit(_read, question, path, output, manifest) for path in chunk]

        ahead = read_ahead(chunks[0]) if chunks else []
        for number, chunk in enumerate(chunks):
            found, ahead = ahead, read_ahead(chunks[number + 1]) if chunks[number + 1 :] else []
            read = [each for future in found if (each := future.result()) is not None]
            explanations = _explain(question, read)
            writing = {
                each.path: pool.submit(
                    _write, question, each, explanations.get(each.path), output, stems[each.path]
                )
                for each in read
            }
            for path in chunk:
                entries = writing[path].result() if path in writing else []
                manifest.append(entries)
                yield Outcome(path, entries)


def _read(question: Question, path: Path, output: Path, manifest: Manifest) -> _Read | None:
    """Prepare a picture for the model; return None if an earlier run has explained it."""
    name = os.path.relpath(path, output).replace(os.sep, "/")
    try:
        encoded = path.read_bytes()
    except OSError as error:
        return _Read(path, name, "", error=f"The file cannot be read: {error.strerror or error}.")
    digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    if manifest.is_done(name, digest, question.digest, question.prompts):
        return None
    try:
        picture = decode(encoded)
        prepared = question.explainer.prepare_decoded(picture, question.size, question.fit)
    except LegradError as error:
        return _Read(path, name, digest, error=str(error))
    size = drawing_size(picture.size, LONGEST_SIDE)
    canvas = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return _Read(path, name, digest, prepared, canvas)


def _explain(question: Question, read: Sequence[_Read]) -> dict[Path, Explanation | str]:
    """Explain the pictures that could be read; a picture that exceeds memory gets an error text."""
    ready = sorted(
        ((each.path, each.prepared) for each in read if each.prepared is not None),
        key=lambda pair: pair[1].geometry.input_size,
    )
    explained: dict[Path, Explanation | str] = {}
    # A batch has one input size; with fit "native" sizes differ.
    for _, group in groupby(ready, key=lambda pair: pair[1].geometry.input_size):
        parts = [list(group)]
        while parts:
            part = parts.pop()
            paths = [path for path, _ in part]
            try:
                found = _explain_batch(question, [prepared for _, prepared in part])
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                release_cached_memory()
                if len(part) == 1:
                    explained[paths[0]] = "The picture does not fit in the device's memory."
                else:
                    middle = len(part) // 2
                    parts += [part[:middle], part[middle:]]
                continue
            explained |= dict(zip(paths, found, strict=True))
    return explained


def _explain_batch(question: Question, prepared: Sequence[PreparedImage]) -> list[Explanation]:
    explainer = question.explainer
    trace = explainer.trace(prepared, layers=question.layers, score=question.score)
    return explainer.attribute(trace, question.targets)


def _write(
    question: Question,
    read: _Read,
    found: Explanation | str | None,
    output: Path,
    stem: Path,
) -> list[Entry]:
    """Write a picture's files and return its entries for the manifest."""
    explainer = question.explainer
    about = {
        "picture": read.name,
        "digest": read.digest,
        "question": question.digest,
        "model": question.model,
    }
    if not isinstance(found, Explanation) or read.canvas is None:
        return [Entry(**about, error=found if isinstance(found, str) else read.error)]
    geometry = found.geometry
    heatmaps = normalize(upsample(found.maps, geometry, read.canvas.size))
    (output / stem).parent.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, (prompt, slug) in enumerate(
        zip(question.prompts, _slugs(question.prompts), strict=True)
    ):
        drawn, raw = (stem.with_name(f"{stem.name}-{slug}{end}") for end in (".png", ".npy"))
        (output / drawn).write_bytes(encode_png(overlay(read.canvas, heatmaps[index])))
        (output / raw).write_bytes(encode_npy(found.maps[index]))
        statistics = summarize(found.maps[index], geometry)
        probability = float(found.probabilities[index])
        entries.append(
            Entry(
                **about,
                layers=explainer.resolve_layers(question.layers),
                score=explainer.resolve_score(question.score),
                image_size=geometry.image_size,
                prompt=prompt,
                similarity=float(found.similarities[index]),
                # NaN if the model gives no probability.
                probability=probability if probability == probability else None,
                overlay=drawn.as_posix(),
                heatmap=raw.as_posix(),
                peak_position=statistics.peak_position,
                peak=statistics.peak,
                entropy=statistics.entropy,
                border_mass=statistics.border_mass,
            )
        )
    return entries


def _output_stems(pictures: Sequence[Path], root: Path) -> dict[Path, Path]:
    """Return each picture's output path without suffix; pictures of equal stem keep theirs."""
    relative = {path: path.relative_to(root) for path in pictures}
    counts = Counter(each.with_suffix("") for each in relative.values())
    return {
        path: each if counts[each.with_suffix("")] > 1 else each.with_suffix("")
        for path, each in relative.items()
    }


def _slugs(prompts: Sequence[str]) -> list[str]:
    """Return a part of a file name for each prompt, numbered if two prompts give the same."""
    seen: Counter[str] = Counter()
    slugs = []
    for prompt in prompts:
        slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:60] or "prompt"
        seen[slug] += 1
        slugs.append(slug if seen[slug] == 1 else f"{slug}-{seen[slug]}")
    return slugs


def read_prompts(path: Path) -> list[str]:
    """Read prompts from a text file, one per line, skipping empty lines and # comments.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read as UTF-8 text.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
