"""The question of a folder run, and its digest. Importing this module loads no torch."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from legrad_engine.families.scores import Score
from legrad_engine.images.file_formats import DEFAULT_QUALITY, PictureFormat
from legrad_engine.images.fits import Fit
from legrad_engine.layers import Layers
from legrad_engine.models.reference import ModelReference

if TYPE_CHECKING:
    from legrad_engine import ClassTarget, Explainer

# They decide how weights, pictures and prompts become numbers.
_SOFTWARE = ("legrad-service", "open_clip_torch", "timm", "transformers")
_LONGEST_SLUG = 60


@dataclass(frozen=True, slots=True)
class Question:
    """A model, prompts and options, the same for every picture.

    Attributes:
        model: reference of the model.
        prompts: texts to look for; labels or indices of classes for models without a text encoder.
        layers: explained blocks, see :meth:`Explainer.resolve_layers`.
        score: the explained score, or None for the model's default.
        size: side of the model's input in pixels, or None for the model's own.
        fit: how pictures are fitted to the input.
        format: format of the overlays.
        quality: quality of JPEG and WebP, 1 to 100.
    """

    model: str
    prompts: tuple[str, ...]
    layers: Layers | None = None
    score: Score | None = None
    size: int | None = None
    fit: Fit = "squash"
    format: PictureFormat = "jpeg"
    quality: int = DEFAULT_QUALITY

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
        asked = [name, weights, self.prompts, self.layers, self.score, self.size, self.fit]
        # PNG has no quality.
        asked += [self.format, None if self.format == "png" else self.quality]
        software = [_version(package) for package in _SOFTWARE]
        return hashlib.blake2b(json.dumps([asked, software]).encode(), digest_size=8).hexdigest()

    def slugs(self) -> list[str]:
        """Return a part of a file name for each prompt, numbered if two prompts give the same."""
        seen: Counter[str] = Counter()
        slugs = []
        for prompt in self.prompts:
            slug = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:_LONGEST_SLUG] or "prompt"
            seen[slug] += 1
            slugs.append(slug if seen[slug] == 1 else f"{slug}-{seen[slug]}")
        return slugs

    def targets(self, explainer: "Explainer") -> "list[str] | list[ClassTarget]":
        """Return the prompts as targets of the engine."""
        # Imported here, because it loads NumPy.
        from legrad_engine import ClassTarget

        if explainer.classifier is None:
            return list(self.prompts)
        return [
            ClassTarget(int(text)) if text.isdecimal() else ClassTarget(label=text)
            for text in self.prompts
        ]

    def check(self, explainer: "Explainer") -> None:
        """Check the prompts and options without a picture.

        Raises:
            LegradError: the model does not accept a prompt or an option.
        """
        explainer.resolver.resolve(self.targets(explainer), 1)
        explainer.resolve_layers(self.layers)
        explainer.resolve_score(self.score)
        explainer.plan(explainer.own_size, self.size, self.fit)


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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
