"""Explain the pictures of a folder run in batches, and write their files."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image

from legrad_engine import Explainer, Explanation, LegradError
from legrad_engine.devices import is_out_of_memory, release_cached_memory
from legrad_engine.images.decoding import DEFAULT_MAX_PIXELS
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.images.rendering import DEFAULT_ALPHA, DEFAULT_COLORMAP
from service.bulk.folders import FoundPicture
from service.bulk.manifest import Entry
from service.bulk.questions import IdentifiedQuestion
from service.pictures.decoding import decode_picture
from service.pictures.drawing import DrawingRules, draw
from service.settings.values import PictureRules

_PICTURES = PictureRules(DEFAULT_MAX_PIXELS)
# Overlays are for viewing; the raw maps are written too. The names of overlays end with .png.
_DRAWINGS = DrawingRules(
    heatmap="npy",
    overlay=True,
    colormap=DEFAULT_COLORMAP,
    alpha=DEFAULT_ALPHA,
    normalize="each",
    regions_threshold=None,
    max_side=2048,
    format="png",
)


@dataclass(frozen=True)
class ReadPicture:
    """A picture, prepared for the model and for its overlays; or the reason why it is not."""

    found: FoundPicture
    prepared: PreparedImage | None = None
    canvas: Image.Image | None = None
    error: str | None = None


class FolderExplainer:
    """Explains pictures with one loaded model, and writes their files below a folder."""

    def __init__(self, explainer: Explainer, asked: IdentifiedQuestion, output: Path) -> None:
        """Take a model and a question that the model accepts."""
        self._explainer = explainer
        self._asked = asked
        self._question = asked.question
        self._output = output
        self._layers = explainer.resolve_layers(self._question.layers)
        self._score = explainer.resolve_score(self._question.score)

    def read(self, found: FoundPicture) -> ReadPicture:
        """Decode a picture and prepare it for the model."""
        if found.encoded is None:
            return ReadPicture(found, error=found.error)
        question = self._question
        rules = self._explainer.input_rules(question.size, question.fit)
        try:
            decoded = decode_picture(found.encoded, _PICTURES, rules, None, _DRAWINGS.max_side)
            self._explainer.check_geometry(decoded.geometry)
        except LegradError as error:
            return ReadPicture(found, error=str(error))
        return ReadPicture(found, decoded.prepared, decoded.canvas)

    def explain(self, read: Sequence[ReadPicture]) -> dict[Path, Explanation | str]:
        """Explain the pictures that could be read; one that exceeds memory gets an error text."""
        ready = sorted(
            ((each.found.path, each.prepared) for each in read if each.prepared is not None),
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
                    found = self._explain_batch([prepared for _, prepared in part])
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

    def _explain_batch(self, prepared: Sequence[PreparedImage]) -> list[Explanation]:
        trace = self._explainer.trace(prepared, layers=self._layers, score=self._score)
        return self._explainer.attribute(trace, self._question.targets(self._explainer))

    def write(
        self, read: ReadPicture, explanation: Explanation | str | None, files: Sequence[Path]
    ) -> list[Entry]:
        """Write a picture's files and return its entries for the manifest.

        Args:
            read: the picture.
            explanation: its explanation, or the reason why it has none.
            files: for each prompt the path of its overlay below the output folder; the raw map has
                the same name with another ending.
        """
        found, question = read.found, self._question
        about = {
            "picture": found.name,
            "digest": found.digest,
            "question": self._asked.digest,
            "model": question.model,
            "weights": self._asked.weights,
            "size": question.size,
            "fit": question.fit,
        }
        if not isinstance(explanation, Explanation) or read.canvas is None:
            # They would be of an earlier content of this file.
            for drawn in files:
                (self._output / drawn).unlink(missing_ok=True)
                (self._output / drawn.with_suffix(".npy")).unlink(missing_ok=True)
            reason = explanation if isinstance(explanation, str) else read.error
            return [Entry(**about, error=reason)]
        geometry = explanation.geometry
        targets = draw(explanation.maps, geometry, read.canvas, _DRAWINGS).targets
        (self._output / files[0]).parent.mkdir(parents=True, exist_ok=True)
        entries = []
        for index, (prompt, drawn) in enumerate(zip(question.prompts, files, strict=True)):
            raw = drawn.with_suffix(".npy")
            target = targets[index]
            for path, content in ((drawn, target.overlay), (raw, target.heatmap)):
                if content is not None:
                    (self._output / path).write_bytes(content)
            statistics = target.statistics
            probability = float(explanation.probabilities[index])
            entries.append(
                Entry(
                    **about,
                    layers=self._layers,
                    score=self._score,
                    image_size=geometry.image_size,
                    prompt=prompt,
                    similarity=float(explanation.similarities[index]),
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
