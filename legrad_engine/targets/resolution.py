"""Resolution of targets into unit vectors of a model's joint space, in batches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from legrad_engine.errors import InvalidTargetError
from legrad_engine.families.heads import at_least_float32
from legrad_engine.targets import (
    ClassTarget,
    EmbeddingTarget,
    ImageTarget,
    SimpleTarget,
    Target,
    TargetKind,
    TextTarget,
)
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.composition import TargetComposer, as_tensor, image_key
from legrad_engine.targets.negatives import Negatives
from legrad_engine.targets.questions import KINDS, Question, is_target
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.targets.templates import Templates, resolve_templates
from legrad_engine.words.reader import WordReader

PictureTargets = Sequence[Target | str] | Tensor | ResolvedTargets

# Targets for all pictures, or a sequence of them for each picture: strings or target objects, unit
# vectors ``[P, e]`` of texts, or (for each picture) resolved targets.
Targets = Sequence[Target | str] | Tensor | Sequence[PictureTargets]

# Half precision rounds the length of a unit vector by less.
_ROUNDED_LENGTH = 0.01


class PromptEncoder(Protocol):
    """Interface of :class:`legrad_engine.targets.text.TextEncoder` that a resolver uses."""

    @property
    def words(self) -> WordReader:
        """Reader of the contributions of words; raises where there are none."""
        ...

    def check(self, prompt: str, templates: Templates = None, *, cache: bool = True) -> None:
        """Refuse a prompt that cannot be encoded."""
        ...

    def is_cached(self, prompt: str, templates: Templates = None) -> bool:
        """Tell whether the prompt's vector is cached."""
        ...

    def encode(
        self, prompts: Sequence[str], templates: Templates = None, *, cache: bool = True
    ) -> Tensor:
        """Encode prompts as unit vectors ``[P, e]``."""
        ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of the texts and pictures of some questions.

    Attributes:
        texts: unit vectors ``[e]`` of the targets' texts, through the templates.
        negative_texts: unit vectors ``[e]`` of the negatives' texts, without templates.
        images: unit vectors ``[e]`` of the target pictures.
    """

    texts: Mapping[str, Tensor]
    negative_texts: Mapping[str, Tensor]
    images: Mapping[object, Tensor]


class TextCount(NamedTuple):
    """Numbers of distinct texts.

    Attributes:
        known: texts whose vectors are cached.
        missing: texts that must be encoded.
        strings: strings to encode for the missing texts, with every template.
    """

    known: int
    missing: int
    strings: int


@dataclass(frozen=True, slots=True)
class TargetResolver:
    """Resolves questions into unit vectors with the parts of one model.

    Attributes:
        text: the text encoder.
        classifier: the classifier, or None where the model has none.
        embed_images: from target pictures to the model's own unit embeddings ``[B, e]``.
        size: length ``e`` of an embedding.
        device: device of the vectors.
        dtype: dtype of the vectors.
    """

    text: PromptEncoder
    classifier: Classifier | None
    embed_images: Callable[[Sequence[ImageTarget]], Tensor]
    size: int
    device: torch.device
    dtype: torch.dtype

    def check(self, question: Question, templates: Templates = None, *, cache: bool = True) -> None:
        """Refuse invalid questions before any computation.

        Args:
            question: the targets.
            templates: templates of the targets' texts.
            cache: whether a text with a cached vector needs no check.

        Raises:
            InvalidTargetError: no target, or a target that this model does not support.
            InvalidOptionError: the templates are invalid.
        """
        if not question.targets:
            raise InvalidTargetError("Give at least one prompt.", field="prompts")
        self._check_parts(question.target_parts, templates, cache)
        self._check_parts(question.negative_parts, None, cache)

    def count_texts(
        self, question: Question, templates: Templates = None, *, cache: bool = True
    ) -> TextCount:
        """Count the question's texts that are cached and those that must be encoded.

        Args:
            question: the targets.
            templates: templates of the targets' texts.
            cache: whether cached vectors are used; otherwise every text must be encoded.
        """
        through, plain = resolve_templates(templates), resolve_templates(None)
        asked = {(text, through) for text in question.texts}
        asked |= {(text, plain) for text in question.negative_texts}
        missing = [each for each in asked if not (cache and self.text.is_cached(*each))]
        strings = sum(len(through) for _, through in missing)
        return TextCount(len(asked) - len(missing), len(missing), strings)

    def embed(
        self, questions: Sequence[Question], templates: Templates = None, *, cache: bool = True
    ) -> Embedded:
        """Encode every distinct text and picture once, each kind in one batch.

        Args:
            questions: the questions.
            templates: templates of the targets' texts.
            cache: whether vectors of texts are looked up and kept.

        Raises:
            InvalidTargetError: a text is blank or too long.
            InvalidOptionError: the templates are invalid.
            ImageDecodeError, ImageTooLargeError: a target picture cannot be read.
        """
        texts = [text for question in questions for text in question.texts]
        negative_texts = [text for question in questions for text in question.negative_texts]
        if templates is None:
            encoded = self._encode([*texts, *negative_texts], None, cache)
            encoded_negatives = encoded
        else:
            encoded = self._encode(texts, templates, cache)
            encoded_negatives = self._encode(negative_texts, None, cache)
        images = {
            image_key(part): part
            for question in questions
            for part, _ in question.parts
            if isinstance(part, ImageTarget)
        }
        vectors = self.embed_images(list(images.values())) if images else ()
        return Embedded(encoded, encoded_negatives, dict(zip(images, vectors, strict=True)))

    @torch.no_grad()
    def compose(self, question: Question, embedded: Embedded) -> ResolvedTargets:
        """Compose the unit vectors of one question.

        Args:
            question: one of the embedded questions.
            embedded: from :meth:`embed`.

        Raises:
            InvalidTargetError: a contrast of equal targets, or a residual of zero length.
        """
        vectors = [
            self._composer.vector(target, field, embedded.texts, embedded.images)
            for target, field in question.named_targets
        ]
        classes = tuple(
            self._composer.class_of(target) if isinstance(target, ClassTarget) else None
            for target in question.targets
        )
        return ResolvedTargets(
            self._stack(vectors),
            tuple(KINDS[type(target)] for target in question.targets),
            classes,
            question.negatives,
            self._negative_vectors(question, embedded),
        )

    def resolve(
        self,
        targets: Targets,
        images: int,
        templates: Templates = None,
        negatives: Negatives | None = None,
    ) -> list[ResolvedTargets]:
        """Check, embed and compose the targets of every picture.

        Args:
            targets: see :data:`Targets`.
            images: number of pictures.
            templates: templates for the targets' texts, see
                :func:`legrad_engine.targets.templates.resolve_templates`.
            negatives: targets that the maps must not show; resolved entries keep their own.

        Returns:
            One entry for each picture.

        Raises:
            InvalidTargetError: the number of target lists differs from the number of pictures.
            LegradError: see :meth:`check`, :meth:`embed` and :meth:`compose`.
        """
        if isinstance(targets, Tensor):
            return [self._from_vectors(targets, negatives)] * images
        if not isinstance(targets, str) and targets and not is_target(targets[0]):
            if len(targets) != images:
                raise InvalidTargetError(
                    f"There are {images} images but targets for {len(targets)}.", field="prompts"
                )
            return self._resolve_each(targets, templates, negatives)  # type: ignore[arg-type]
        return self._resolve_each([targets], templates, negatives) * images  # type: ignore[list-item]

    def _resolve_each(
        self,
        targets: Sequence[PictureTargets],
        templates: Templates,
        negatives: Negatives | None,
    ) -> list[ResolvedTargets]:
        questions = {
            position: Question.of(each, negatives)
            for position, each in enumerate(targets)
            if not isinstance(each, (Tensor, ResolvedTargets))
        }
        for question in questions.values():
            self.check(question, templates)
        embedded = self.embed(list(questions.values()), templates)
        return [
            self.compose(questions[position], embedded)
            if position in questions
            else self._from_vectors(each, negatives)
            if isinstance(each, Tensor)
            else cast(ResolvedTargets, each)
            for position, each in enumerate(targets)
        ]

    def _from_vectors(self, vectors: Tensor, negatives: Negatives | None) -> ResolvedTargets:
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[-1] != self.size:
            raise InvalidTargetError(
                f"Target vectors must be [targets, {self.size}], not {list(vectors.shape)}.",
                field="targets",
            )
        if not vectors.isfinite().all():
            raise InvalidTargetError("The target vectors are not all finite.", field="targets")
        lengths = at_least_float32(vectors).norm(dim=-1)
        if (lengths - 1).abs().max() > _ROUNDED_LENGTH:
            raise InvalidTargetError(
                "Target vectors must have length 1: normalise them, or pass them as "
                "EmbeddingTarget, which does.",
                field="targets",
            )
        question = Question((), negatives)
        self._check_parts(question.negative_parts, None, cache=True)
        return ResolvedTargets(
            vectors.to(self.device, self.dtype),
            tuple[TargetKind, ...](["text"] * len(vectors)),
            (None,) * len(vectors),
            negatives,
            self._negative_vectors(question, self.embed([question])),
        )

    def _negative_vectors(self, question: Question, embedded: Embedded) -> Tensor:
        return self._stack(
            [
                self._composer.vector(target, field, embedded.negative_texts, embedded.images)
                for target, field in question.named_negatives
            ]
        )

    @property
    def _composer(self) -> TargetComposer:
        return TargetComposer(self.classifier, self.device, self.dtype)

    def _check_parts(
        self, parts: Sequence[tuple[SimpleTarget, str]], templates: Templates, cache: bool
    ) -> None:
        for part, field in parts:
            self._check_part(part, field, templates, cache)

    def _check_part(
        self, part: SimpleTarget, field: str, templates: Templates, cache: bool
    ) -> None:
        match part:
            case TextTarget(texts=texts, words=words):
                if words:
                    self._check_words(f"{field}.words")
                for text in texts:
                    self._check_text(text, field, templates, cache)
            case EmbeddingTarget():
                self._check_embedding(part, f"{field}.embedding")
            case ClassTarget():
                if self.classifier is None:
                    raise InvalidTargetError(
                        "This model has no classifier: give a text, a picture or an embedding.",
                        field=field,
                    )
                try:
                    self._composer.class_of(part)
                except InvalidTargetError as error:
                    name = "index" if part.label is None else "label"
                    raise InvalidTargetError(str(error), field=f"{field}.{name}") from error

    def _check_text(self, text: str, field: str, templates: Templates, cache: bool) -> None:
        try:
            self.text.check(text, templates, cache=cache)
        except InvalidTargetError as error:
            raise InvalidTargetError(str(error), field=field) from error

    def _check_words(self, field: str) -> None:
        try:
            _ = self.text.words
        except InvalidTargetError as error:
            raise InvalidTargetError(str(error), field=field) from error

    def _check_embedding(self, target: EmbeddingTarget, field: str) -> None:
        vector = as_tensor(target)
        if vector.shape != (self.size,):
            given = len(vector) if vector.ndim == 1 else f"shape {list(vector.shape)}"
            raise InvalidTargetError(
                f"The embedding has {given} values, but this model's embeddings have {self.size}.",
                field=field,
            )
        if not vector.isfinite().all():
            raise InvalidTargetError("The embedding holds a value that is not finite.", field=field)
        if not vector.any():
            raise InvalidTargetError(
                "The embedding is all zeros, so it has no direction.", field=field
            )

    def _encode(self, texts: Iterable[str], templates: Templates, cache: bool) -> dict[str, Tensor]:
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        return dict(zip(distinct, self.text.encode(distinct, templates, cache=cache), strict=True))

    def _stack(self, vectors: Sequence[Tensor]) -> Tensor:
        if not vectors:
            return torch.empty(0, self.size, device=self.device, dtype=self.dtype)
        return torch.stack(list(vectors)).to(self.device, self.dtype)
