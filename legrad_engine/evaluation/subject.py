"""A loaded model on a data set: maps of its classes, and how similar pictures are to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from legrad_engine.errors import InvalidTargetError
from legrad_engine.evaluation.baselines import BASELINES, baseline_map, generator_of
from legrad_engine.evaluation.imagenet_classes import IMAGENET_CLASSES
from legrad_engine.evaluation.options import MapOptions
from legrad_engine.evaluation.samples import DataSet, Sample
from legrad_engine.explainer import Explainer
from legrad_engine.families.heads import at_least_float32
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.inputs import by_input_size
from legrad_engine.models import probabilities
from legrad_engine.targets import ClassTarget, TextTarget
from legrad_engine.trace import Trace
from legrad_engine.transfers import index_on

IMAGES_PER_PASS = 32

_Shared = TypeVar("_Shared")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A sample that is ready to be measured."""

    key: str
    sample: Sample
    prepared: PreparedImage


@dataclass(frozen=True, slots=True, eq=False)
class TracedCases:
    """The trace of cases of one input size, and their places among all cases."""

    members: Sequence[int]
    trace: Trace


class Subject:
    """What protocols measure: a model, a data set and options."""

    def __init__(
        self,
        explainer: Explainer,
        data_set: DataSet,
        options: MapOptions,
        scorer: Explainer | None = None,
    ) -> None:
        """Take a loaded model and an opened data set.

        Args:
            explainer: the model.
            data_set: the data set.
            options: how maps are computed.
            scorer: the same model in a faster dtype, for the scores of changed pictures; None for
                the model itself.
        """
        self.explainer = explainer
        self.data_set = data_set
        self.options = options
        self._scorer = scorer or explainer

    def check(self, methods: Sequence[str], *, all_classes: bool) -> None:
        """Check the options, the methods and one class, or all classes, without a picture.

        Raises:
            LegradError: the model does not take one of them.
        """
        options = self.options
        for method in methods:
            if method not in BASELINES:
                self.explainer.resolve_layers(options.layers, method)
                self.explainer.resolve_score(options.score, method)
        self.explainer.plan(self.explainer.own_size, options.size, options.fit)
        if all_classes:
            # Encoded once and kept: they are needed anyway.
            _ = self.class_vectors
        else:
            self.explainer.resolver.resolve(self.targets([0]), 1, options.templates)

    def case(self, key: str, sample: Sample) -> Case:
        """Prepare a sample.

        Raises:
            InvalidOptionError: the picture does not fit the model.
        """
        return Case(key, sample, self.prepare(sample.picture))

    def prepare(self, picture: Image.Image) -> PreparedImage:
        """Fit a picture to the model's input.

        Raises:
            InvalidOptionError: the picture does not fit the model.
        """
        return self.explainer.prepare_decoded(picture, self.options.size, self.options.fit)

    def targets(self, classes: Sequence[int]) -> list[TextTarget] | list[ClassTarget]:
        """Return classes of the data set, by their indices, as targets of the model.

        Raises:
            InvalidTargetError: the model's classifier has no such class.
        """
        if self.explainer.classifier is None:
            return [TextTarget(text=self.data_set.classes[index]) for index in classes]
        return [ClassTarget(index=self._classifier_index(index)) for index in classes]

    def _classifier_index(self, index: int) -> int:
        classifier = self.explainer.classifier
        if classifier is None:
            raise InvalidTargetError("The model has no classes.", field="model")
        imagenet = self.data_set.imagenet.get(index)
        if imagenet is not None and classifier.count == IMAGENET_CLASSES:
            return imagenet
        return classifier.index_of(self.data_set.classes[index])

    def traces(self, cases: Sequence[Case], method: str) -> list[TracedCases]:
        """Trace pictures of any input sizes for the maps of a method; nothing for a baseline.

        Raises:
            LegradError: the model does not take an option.
        """
        if method in BASELINES:
            return []
        return [
            TracedCases(
                members,
                self.explainer.trace(
                    [cases[index].prepared for index in members],
                    method=method,
                    layers=self.options.layers,
                    score=self.options.score,
                ),
            )
            for members in by_input_size([case.prepared for case in cases])
        ]

    def maps(
        self,
        cases: Sequence[Case],
        classes: Sequence[Sequence[int]],
        method: str,
        traces: Sequence[TracedCases],
    ) -> list[NDArray[np.floating]]:
        """Compute maps of classes of the data set.

        Args:
            cases: pictures.
            classes: the classes of each picture, at least one.
            method: the method, or a baseline.
            traces: of these pictures and this method, from :meth:`traces`.

        Returns:
            Raw maps ``[classes, rows, columns]`` of each picture.

        Raises:
            LegradError: the model does not take a class or an option.
        """
        if method in BASELINES:
            return [
                np.stack(
                    [
                        baseline_map(
                            method, case.prepared.geometry.grid, generator_of(case.key, str(index))
                        )
                        for index in wanted
                    ]
                )
                for case, wanted in zip(cases, classes, strict=True)
            ]
        found: dict[int, NDArray[np.floating]] = {}
        for traced in traces:
            explained = self.explainer.attribute(
                traced.trace,
                [self.targets(classes[index]) for index in traced.members],
                templates=self.options.templates,
            )
            found |= {
                index: each.maps for index, each in zip(traced.members, explained, strict=True)
            }
        return [found[index] for index in range(len(cases))]

    def features(self, images: Sequence[PreparedImage]) -> Tensor:
        """Compute the model's own features of prepared pictures of any input sizes.

        Returns:
            ``[B, e]``, at least float32, not normalised.
        """
        found: dict[int, Tensor] = {}
        for members in by_input_size(images):
            for start in range(0, len(members), IMAGES_PER_PASS):
                part = members[start : start + IMAGES_PER_PASS]
                trace = self._scorer.trace([images[index] for index in part], layers=1)
                found |= dict(zip(part, at_least_float32(trace.features), strict=True))
        return torch.stack([found[index] for index in range(len(images))])

    @cached_property
    def _class_indices(self) -> Tensor:
        """``[C]``: index in the model's classifier of each class of the data set."""
        indices = [self._classifier_index(index) for index in range(len(self.data_set.classes))]
        return index_on(self.explainer.device, indices)

    @cached_property
    def class_vectors(self) -> Tensor:
        """Unit vectors ``[C, e]`` of all classes of the data set, at least float32.

        Raises:
            LegradError: the model does not take a class.
        """
        classifier = self.explainer.classifier
        if classifier is not None:
            return F.normalize(at_least_float32(classifier.weight[self._class_indices]), dim=-1)
        vectors = self.explainer.text.encode(
            self.data_set.classes, self.options.templates, cache=False
        )
        return F.normalize(at_least_float32(vectors), dim=-1)

    def class_scores(self, images: Sequence[PreparedImage]) -> NDArray[np.floating]:
        """Score prepared pictures for all classes of the data set, higher for likelier ones.

        Returns:
            ``[B, C]``: the classifier's probabilities, or cosines to the names of the classes.
        """
        features = self.features(images)
        if self.explainer.classifier is None:
            return self.cosines(features).cpu().numpy()
        return self.probabilities(features).cpu().numpy()

    @torch.no_grad()
    def cosines(self, features: Tensor) -> Tensor:
        """Compare features ``[B, e]`` with all classes: cosines ``[B, C]``."""
        return F.normalize(features, dim=-1) @ self.class_vectors.T

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """Compute the model's probabilities of all classes of the data set.

        Returns:
            ``[B, C]``: of the classifier, if the model has one; else a softmax of the logits of all
            classes, or sigmoids for a model that was trained with them.
        """
        classifier = self.explainer.classifier
        if classifier is not None:
            return classifier.probabilities(features)[:, self._class_indices]
        return probabilities(self.explainer.model, self.cosines(features))


class Batch:
    """Cases that are measured together, with the work that protocols and methods share."""

    def __init__(self, subject: Subject, cases: Sequence[Case]) -> None:
        """Take cases whose samples have at least one annotation each."""
        self.subject = subject
        self.cases = cases
        self._maps: dict[str, list[NDArray[np.floating]]] = {}
        self._traces: tuple[str, list[TracedCases]] | None = None
        self._shared: dict[tuple[str, ...], object] = {}

    def maps(self, method: str) -> list[NDArray[np.floating]]:
        """Return the raw maps ``[annotations, rows, columns]`` of each case."""
        if method not in self._maps:
            classes = [
                [annotation.index for annotation in case.sample.annotations] for case in self.cases
            ]
            self._maps[method] = self.maps_of(classes, method)
        return self._maps[method]

    def maps_of(self, classes: Sequence[Sequence[int]], method: str) -> list[NDArray[np.floating]]:
        """Compute raw maps ``[classes, rows, columns]`` of any classes of each case.

        The trace of the latest method is kept.

        Raises:
            LegradError: the model does not take a class or an option.
        """
        if self._traces is None or self._traces[0] != method:
            self.release()
            self._traces = method, self.subject.traces(self.cases, method)
        return self.subject.maps(self.cases, classes, method, self._traces[1])

    def release(self) -> None:
        """Free the memory of the trace."""
        self._traces = None

    def once(self, key: tuple[str, ...], compute: Callable[[], _Shared]) -> _Shared:
        """Compute a value that does not depend on the method once for all of them."""
        if key not in self._shared:
            self._shared[key] = compute()
        return cast(_Shared, self._shared[key])
