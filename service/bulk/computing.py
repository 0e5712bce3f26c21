"""Explain the pictures of a folder run in batches, and write their files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from legrad_engine import Explainer, LegradError
from legrad_engine.images.decoding import DEFAULT_MAX_PIXELS
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.images.rendering import DEFAULT_ALPHA, DEFAULT_COLORMAP
from service.bulk.batches import BatchExplainer, Explained
from service.bulk.folders import FoundPicture
from service.bulk.manifest import Entry
from service.bulk.questions import IdentifiedQuestion
from service.pictures.decoding import decode_picture
from service.pictures.drawing import DrawingRules, draw
from service.settings.values import PictureRules

_PICTURES = PictureRules(DEFAULT_MAX_PIXELS)
# Overlays are for viewing; the raw maps are written too.
_DRAWINGS = DrawingRules(
    heatmap="npy",
    overlay=True,
    colormap=DEFAULT_COLORMAP,
    alpha=DEFAULT_ALPHA,
    normalize="each",
    regions_threshold=None,
    max_side=2048,
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
        """Take a model and a question that the model accepts.

        Raises:
            PresenceError: the question's presence calibration was fitted for other weights.
        """
        self._explainer = explainer
        self._asked = asked
        self._question = asked.question
        self._output = output
        calibration = self._question.calibration(asked.weights)
        self._batches = BatchExplainer(explainer, self._question, calibration)

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

    def explain(self, read: Sequence[ReadPicture]) -> dict[Path, Explained | str]:
        """Explain the pictures that could be read; one that exceeds memory gets an error text."""
        return self._batches.explain(
            [(each.found.path, each.prepared) for each in read if each.prepared is not None]
        )

    def write(
        self, read: ReadPicture, explained: Explained | str | None, files: Sequence[Path]
    ) -> list[Entry]:
        """Write a picture's files and return its entries for the manifest.

        Args:
            read: the picture.
            explained: its explanation, or the reason why it has none.
            files: for each map the path of its overlay below the output folder; the raw map has
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
        if not isinstance(explained, Explained) or read.canvas is None:
            # They would be of an earlier content of this file.
            for drawn in files:
                (self._output / drawn).unlink(missing_ok=True)
                (self._output / drawn.with_suffix(".npy")).unlink(missing_ok=True)
            reason = explained if isinstance(explained, str) else read.error
            return [Entry(**about, error=reason)]
        explanation = explained.explanation
        geometry = explanation.geometry
        rules = replace(_DRAWINGS, format=question.format, quality=question.quality)
        targets = draw(explanation.maps, geometry, read.canvas, rules).targets
        (self._output / files[0]).parent.mkdir(parents=True, exist_ok=True)
        entries = []
        head_count = self._explainer.head_count
        for (prompt, head), drawn, target in zip(
            question.maps(head_count), files, targets, strict=True
        ):
            raw = drawn.with_suffix(".npy")
            # The numbers of a prompt are those of all its heads.
            place = question.prompts.index(prompt)
            for path, content in ((drawn, target.overlay), (raw, target.heatmap)):
                if content is not None:
                    (self._output / path).write_bytes(content)
            statistics = target.statistics
            probability = float(explanation.probabilities[place])
            entries.append(
                Entry(
                    **about,
                    method=question.method,
                    layers=self._batches.layers,
                    score=self._batches.score,
                    image_size=geometry.image_size,
                    prompt=prompt,
                    head=head,
                    head_count=None if head is None else head_count,
                    similarity=float(explanation.similarities[place]),
                    # NaN if the model gives no probability.
                    probability=probability if probability == probability else None,
                    presence=explained.presence[place],
                    overlay=drawn.as_posix(),
                    heatmap=raw.as_posix(),
                    peak_position=statistics.peak_position,
                    peak=statistics.peak,
                    entropy=statistics.entropy,
                    border_mass=statistics.border_mass,
                    **explained.measured[place],
                )
            )
        return entries
