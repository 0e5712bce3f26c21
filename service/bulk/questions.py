"""The question of a folder run, and its digest. Importing this module loads no torch."""

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from legrad_engine.families.scores import Score
from legrad_engine.images.file_formats import DEFAULT_QUALITY, PictureFormat
from legrad_engine.images.fits import Fit
from legrad_engine.layers import Layers
from legrad_engine.measurements.trust.levels import TrustLevel
from legrad_engine.methods import DEFAULT_METHOD, Heads
from legrad_engine.models.reference import ModelReference

if TYPE_CHECKING:
    from legrad_engine import ClassTarget, Explainer
    from legrad_engine.measurements.base import Measurement
    from legrad_engine.presence import PresenceCalibration

# They decide how weights, pictures and prompts become numbers.
_SOFTWARE = ("legrad-service", "open_clip_torch", "timm", "transformers")
_LONGEST_SLUG = 60


@dataclass(frozen=True, slots=True)
class Question:
    """A model, prompts and options, the same for every picture.

    Attributes:
        model: reference of the model.
        prompts: texts to look for; labels or indices of classes for models without a text encoder.
        method: name of the explanation method.
        layers: explained blocks, see :meth:`Explainer.resolve_layers`.
        score: the explained score, or None for the model's default.
        size: side of the model's input in pixels, or None for the model's own.
        fit: how pictures are fitted to the input.
        format: format of the overlays.
        quality: quality of JPEG and WebP, 1 to 100.
        trust: how much is measured about the trust in the maps; None for nothing.
        layers_report: whether the targets are reported after every block.
        heads: whether the maps are those of the prompts or of the attention heads.
        presence: the presence calibration; None for the built-in model's own, and none for others.
    """

    model: str
    prompts: tuple[str, ...]
    method: str = DEFAULT_METHOD
    layers: Layers | None = None
    score: Score | None = None
    size: int | None = None
    fit: Fit = "squash"
    format: PictureFormat = "jpeg"
    quality: int = DEFAULT_QUALITY
    trust: TrustLevel | None = None
    layers_report: bool = False
    heads: Heads = "mean"
    presence: "PresenceCalibration | None" = None

    @property
    def reference(self) -> ModelReference:
        """The model.

        Raises:
            UnknownModelError: its text has no known form.
        """
        return ModelReference.parse(self.model)

    def digest(self, weights: str) -> str:
        """Hash everything except the picture that the results depend on.

        Args:
            weights: identity of the weights, see
                :class:`~legrad_engine.models.identity.ModelIdentity`.
        """
        # Without folders: the content of local files is in the weights.
        name = self.reference.without_folders(self.model)
        asked = [name, weights, self.prompts, self.method, self.layers, self.score]
        asked += [self.size, self.fit]
        # PNG has no quality.
        asked += [self.format, None if self.format == "png" else self.quality]
        # Runs without them keep their digests.
        asked += [] if self.trust is None else [self.trust]
        asked += ["layers_report"] if self.layers_report else []
        asked += [] if self.heads == "mean" else [f"heads={self.heads}"]
        asked += [] if self.presence is None else [f"presence={self.presence.digest}"]
        return digest_of(asked)

    def calibration(self, weights: str) -> "PresenceCalibration | None":
        """Return the calibration that tells the presence of the prompts; None without one.

        Args:
            weights: identity of the weights of the loaded model.

        Raises:
            PresenceError: the calibration was fitted for other weights.
        """
        # Imported here, because it loads NumPy.
        from legrad_engine.presence import built_in

        found = self.presence or built_in(self.reference)
        if found is not None:
            found.check(weights)
        return found

    def maps(self, head_count: int) -> list[tuple[str, int | None]]:
        """Return the prompt of each map of a picture, with its head if it is the map of one.

        Args:
            head_count: number of attention heads of the model.
        """
        heads: Sequence[int | None] = range(head_count) if self.heads == "each" else (None,)
        return [(prompt, head) for prompt in self.prompts for head in heads]

    def slugs(self, head_count: int) -> list[str]:
        """Return a part of a file name for each map, numbered if two prompts give the same.

        Args:
            head_count: number of attention heads of the model.
        """
        slugs: dict[str, None] = {}
        for prompt, head in self.maps(head_count):
            slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:_LONGEST_SLUG] or "prompt"
            if head is not None:
                # As many digits in each name, so that folders list the heads in order.
                slug = f"{slug}-head-{head:0{len(str(head_count - 1))}}"
            # A number may be part of another prompt's own name.
            numbered = (f"{slug}-{number}" for number in itertools.count(2))
            free = next(each for each in itertools.chain([slug], numbered) if each not in slugs)
            slugs[free] = None
        return list(slugs)

    def targets(self, explainer: "Explainer") -> "list[str] | list[ClassTarget]":
        """Return the prompts as targets of the engine.

        For a classifier they are names of classes, or indices where no class has that name.
        """
        # Imported here, because it loads NumPy.
        from legrad_engine import ClassTarget

        classifier = explainer.classifier
        if classifier is None:
            return list(self.prompts)
        return [
            ClassTarget(int(text))
            if text.isdecimal() and not classifier.has_name(text)
            else ClassTarget(label=text)
            for text in self.prompts
        ]

    def measurements(self) -> "list[Measurement]":
        """Return the measurements that are asked for beside the maps."""
        # Imported here, because they load torch.
        from legrad_engine.measurements.layers_report import LayersReportMeasurement
        from legrad_engine.measurements.trust.measurement import Trust

        asked: list[Measurement] = []
        if self.trust is not None:
            asked.append(Trust(self.trust))
        if self.layers_report:
            asked.append(LayersReportMeasurement(terms=self.method == "textspan"))
        return asked

    def check(self, explainer: "Explainer") -> None:
        """Check the prompts and options without a picture.

        Raises:
            LegradError: the model does not accept a prompt or an option.
        """
        # Imported here, because it loads torch.
        from legrad_engine.measurements.base import Asked
        from legrad_engine.targets.questions import Question as Targets

        targets = self.targets(explainer)
        explainer.resolver.resolve(targets, 1)
        method = explainer.method(self.method)
        method.check(self.heads, len(targets), negatives=False)
        layers = explainer.resolve_layers(self.layers, self.method)
        score = explainer.resolve_score(self.score, self.method)
        explainer.plan(explainer.own_size, self.size, self.fit)
        asked = Asked(explainer, method, self.heads, layers, score, Targets.of(targets))
        for each in self.measurements():
            each.check(asked)


@dataclass(frozen=True, slots=True)
class IdentifiedQuestion:
    """A question with the identity of its weights.

    Attributes:
        question: the question.
        weights: identity of the weights.
        digest: hash of both.
    """

    question: Question
    weights: str
    digest: str

    @property
    def folder(self) -> str:
        """Name of the folder of its results: results of two questions never share a file."""
        return f"{self.question.reference.id}-{self.digest[:8]}"


def identified(question: Question, weights: str) -> IdentifiedQuestion:
    """Return the question together with its weights."""
    return IdentifiedQuestion(question, weights, question.digest(weights))


def digest_of(asked: Sequence[object]) -> str:
    """Hash JSON values that results depend on, together with the versions of the software."""
    content = json.dumps([asked, list(software().values())])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def software() -> dict[str, str | None]:
    """Return the versions of the packages that decide results; None for one that is missing."""
    return {package: _version(package) for package in _SOFTWARE}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
