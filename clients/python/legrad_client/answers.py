"""Answers of the service as frozen dataclasses, maps as arrays and overlays as images."""

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from legrad_client.layers_report import LayersReport
from legrad_client.parsing import JSON_NAME, parse
from legrad_client.questions import Counterfactual, TextWords
from legrad_client.shapes import Box, Grid, Point, Size
from legrad_client.trust import Trust


@dataclass(frozen=True)
class Region:
    """Connected pixels that reach the threshold; ``area`` is a share of the picture."""

    box: Box
    area: float
    peak: float
    peak_position: Point
    mean: float


@dataclass(frozen=True)
class Statistics:
    """Statistics of a map: raw peak and mean; entropy and border mass from 0 to 1."""

    peak: float
    peak_position: Point
    mean: float
    entropy: float
    border_mass: float


@dataclass(frozen=True)
class MethodUse:
    """The explanation method that made the heatmaps.

    Attributes:
        name: its name.
        targeted: whether a heatmap depends on its target; if not, all targets have the same.
        note: how it is defined for the model, if that is not evident.
    """

    name: str
    targeted: bool
    note: str | None


@dataclass(frozen=True, eq=False)
class TargetExplanation:
    """The heatmap of one target.

    Attributes:
        target: short name of the target.
        prompt: the prompt, if the target is a single text.
        similarity: cosine similarity of picture and target.
        probability: of a text, its share among the texts of the request, or its own with a sigmoid
            model; of a class, among the model's classes; None for other targets.
        presence: calibrated probability that the picture shows the thing that the prompt names;
            None for other targets, for a model without calibration, and from an older server.
        map: raw float32 [rows, columns] over the patch grid, neither upsampled nor normalised.
        overlay: the heatmap drawn over the picture, RGB; None if it was not requested.
        encoded_overlay: the overlay's file, as the server has encoded it; None without one.
        overlay_type: media type of this file, such as ``image/jpeg``; None without one.
        regions: regions whose pixels reach the threshold, heaviest first; None if they were not
            requested.
        statistics: statistics of the map.
        head: with ``heads="each"``, index of the attention head whose map it is.
        layers_report: the target after every block; None if it was not requested.
        trust: how far the map can be trusted; None if it was not requested.
        words: the words of each text of the target; None unless the target has ``words``.
    """

    target: str
    prompt: str | None
    similarity: float
    probability: float | None
    map: NDArray[np.float32] = field(metadata={JSON_NAME: "heatmap"})
    overlay: Image.Image | None
    regions: tuple[Region, ...] | None
    statistics: Statistics
    encoded_overlay: bytes | None = field(default=None, metadata={JSON_NAME: "overlay"}, repr=False)
    # Servers that do not tell it send PNG.
    overlay_type: str | None = "image/png"
    head: int | None = None
    layers_report: LayersReport | None = None
    trust: Trust | None = None
    presence: float | None = None
    words: tuple[TextWords, ...] | None = None

    def save_overlay(self, path: str | PathLike[str]) -> Path:
        """Write the overlay's file as the server has encoded it, without encoding it again.

        Args:
            path: the file without its ending, which its format decides.

        Returns:
            The path of the file, with its ending.

        Raises:
            ValueError: there is no overlay, or its format is unknown.
            OSError: the file cannot be written.
        """
        if self.encoded_overlay is None:
            raise ValueError("There is no overlay: it was not requested.")
        ending = _ENDINGS.get(self.overlay_type or "")
        if ending is None:
            raise ValueError(f"Overlays of type {self.overlay_type} have no known ending.")
        file = Path(f"{fspath(path)}{ending}")
        file.write_bytes(self.encoded_overlay)
        return file


@dataclass(frozen=True)
class Timings:
    """Duration of the server's stages in seconds."""

    decode: float
    queue: float
    compute: float
    render: float
    total: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """The explanation of one picture: a sequence of targets that can be looked up by prompt too.

    A notebook shows its overlays.

    Attributes:
        size: size of the upright picture.
        input_size: size of the model's input.
        grid: the patch grid.
        batch_size: number of images that the model computed together.
        cached: whether the trace of an earlier request was used.
        targets: one for each prompt, then one for each of ``targets``, in order; with
            ``heads="each"``, one for each attention head.
        model: id of the model.
        layers: indices of the explained blocks.
        score: the explained score.
        request_id: the request's id in the server's logs.
        timings: durations for the whole request.
        method: the method that made the maps.
        counterfactual: similarities after a change of regions; None unless it was asked for.
    """

    size: Size
    input_size: Size
    grid: Grid
    batch_size: int
    cached: bool
    targets: tuple[TargetExplanation, ...]
    model: str
    layers: tuple[int, ...]
    score: str
    request_id: str
    timings: Timings
    # Servers that do not tell it have one method.
    method: MethodUse = MethodUse("legrad", targeted=True, note=None)
    counterfactual: Counterfactual | None = None

    def __getitem__(self, key: int | str) -> TargetExplanation:
        """Return a target by its index, its prompt or its short name.

        Raises:
            IndexError: the index is out of range.
            KeyError: no target has this prompt or name.
        """
        if isinstance(key, int):
            return self.targets[key]
        for target in self.targets:
            if key in (target.prompt, target.target):
                return target
        raise KeyError(key)

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self.targets)

    def __iter__(self) -> Iterator[TargetExplanation]:
        """Iterate over the targets in order."""
        return iter(self.targets)

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the overlays side by side, with their numbers."""
        figures = "".join(map(_figure, self.targets))
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:12px">'
            f"{figures}</div><small>{html.escape(self.model)}, "
            f"{html.escape(self.method.name)}, blocks "
            f"{', '.join(map(str, self.layers))}, score {html.escape(self.score)}</small>"
        )


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image to the numbers that a model reads; see ``/models`` of the contract."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str | None
    fill_color: tuple[int, ...] | None
    source: str
    is_guess: bool


@dataclass(frozen=True)
class Presence:
    """The calibration of ``presence``; see ``/models`` of the contract."""

    slope: float
    intercept: float
    pairs_with: int
    pairs_without: int
    brier: float
    calibration_error: float
    source: str
    weights: str


@dataclass(frozen=True)
class OfferedMethod:
    """An explanation method that a model offers; see ``/models`` of the contract."""

    name: str
    title: str
    description: str
    source: str
    targeted: bool
    splits_heads: bool
    layers: tuple[int, ...]
    layers_taken: str
    score: str
    note: str | None


@dataclass(frozen=True)
class ModelWorker:
    """The worker of one device; its state is ``ready``, or the reason why it computes nothing.

    ``error`` tells why the device has no copy of the model, if it has none.
    """

    device: str
    state: str
    error: str | None = None


@dataclass(frozen=True)
class RandomizedStage:
    """The heatmaps after one more part of the model was randomised."""

    stage: str
    similarity: float | None
    heatmaps: int


@dataclass(frozen=True)
class RandomizedMethod:
    """The check of one explanation method."""

    method: str
    stages: tuple[RandomizedStage, ...]


@dataclass(frozen=True)
class SanityCheck:
    """The result of ``legrad check``; see ``/models`` of the contract."""

    weights: str
    version: str
    pictures: int
    methods: tuple[RandomizedMethod, ...]


@dataclass(frozen=True)
class ModelDescription:
    """A served model; properties that are unknown until it is loaded are None."""

    id: str
    name: str
    pretrained: str | None
    default: bool
    state: str
    error: str | None
    loads_on_request: bool
    in_flight: int
    last_used: datetime | None
    device: str | None
    dtype: str | None
    bytes: int | None
    family: str | None
    image_size: Size | None
    patch_size: Size | None
    grid: Grid | None
    layers: int | None
    scores: tuple[str, ...] | None
    templates: tuple[str, ...] | None
    licence: str | None
    activation: str | None = None
    preprocessing: Preprocessing | None = None
    classes: int | None = None
    workers: tuple[ModelWorker, ...] | None = None
    max_batch_images: int | None = None
    methods: tuple[OfferedMethod, ...] | None = None
    presence: Presence | None = None
    check: SanityCheck | None = None


@dataclass(frozen=True)
class ModelClass:
    """A class of a model's classifier: its index, and its label if the classes have names."""

    index: int
    label: str | None


_ENDINGS = {"image/jpeg": ".jpg", "image/webp": ".webp", "image/png": ".png"}
_SHARED = ("model", "layers", "score", "request_id", "timings")


def parse_explanations(answer: Any) -> list[Explanation]:
    """Parse the answer of ``POST /explain``: one explanation for each picture.

    Raises:
        LookupError, TypeError, ValueError, OSError: it is not an answer of this service.
    """
    shared = {name: answer[name] for name in _SHARED}
    return [parse(Explanation, {**image, **shared}) for image in answer["images"]]


def parse_models(answer: Any) -> list[ModelDescription]:
    """Parse the answer of ``GET /models``. Raises as :func:`parse_explanations` does."""
    return [parse(ModelDescription, each) for each in answer["models"]]


def parse_classes(answer: Any) -> list[ModelClass]:
    """Parse the answer of ``GET /models/{id}/classes``. Raises as :func:`parse_explanations`."""
    return [parse(ModelClass, each) for each in answer["classes"]]


def _figure(target: TargetExplanation) -> str:
    picture = ""
    if target.overlay is not None:
        shown = target.overlay.copy()
        shown.thumbnail((320, 320))
        buffer = io.BytesIO()
        shown.save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        picture = f'<img alt="" src="data:image/png;base64,{data}">'
    numbers = f"similarity {target.similarity:.3f}"
    if target.probability is not None:
        numbers += f", probability {100 * target.probability:.1f} %"
    if target.presence is not None:
        numbers += f", presence {100 * target.presence:.0f} %"
    name = html.escape(target.target)
    return (
        f'<figure style="margin:0">{picture}<figcaption><b>{name}</b><br>{numbers}'
        "</figcaption></figure>"
    )
