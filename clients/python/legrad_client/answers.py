"""What comes back: the contract's answers with maps as arrays and overlays as images.

Fields that a newer server adds are ignored.
"""

import base64
import html
import io
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _map_of(encoded: object) -> object:
    if not isinstance(encoded, str):
        return encoded
    return np.load(io.BytesIO(base64.b64decode(encoded)), allow_pickle=False)


def _picture_of(encoded: object) -> object:
    if not isinstance(encoded, str):
        return encoded
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    picture.load()
    return picture


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


class Size(_Answer):
    """A size in pixels."""

    width: int
    height: int


class Grid(_Answer):
    """A patch grid."""

    rows: int
    columns: int


class Point(_Answer):
    """A position in the original picture, in pixels from its upper left corner."""

    x: int
    y: int


class Box(_Answer):
    """A box in the original picture, in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


class Region(_Answer):
    """Connected pixels of the heatmap above the threshold; ``area`` is a share of the picture."""

    box: Box
    area: float
    peak: float
    peak_position: Point
    mean: float


class Statistics(_Answer):
    """Numbers that describe a map: raw peak and mean, entropy and border mass from 0 to 1."""

    peak: float
    peak_position: Point
    mean: float
    entropy: float
    border_mass: float


class TargetExplanation(_Answer):
    """Where the model looked for one target.

    Attributes:
        target: the target in short.
        prompt: the prompt, where the target is one text.
        similarity: cosine between picture and target.
        probability: among the texts of the request or the model's classes; None for others.
        map: raw float32 [rows, columns] over the patch grid, neither upsampled nor normalised.
        overlay: the heatmap drawn over the picture, RGB; None where none was asked for.
        regions: parts of the heatmap above the threshold, the heaviest first.
        statistics: numbers that describe the map.
    """

    target: str
    prompt: str | None
    similarity: float
    probability: float | None
    map: Annotated[NDArray[np.float32], BeforeValidator(_map_of), Field(alias="heatmap")]
    overlay: Annotated[Image.Image | None, BeforeValidator(_picture_of)]
    regions: tuple[Region, ...] | None
    statistics: Statistics


class Timings(_Answer):
    """Where the server's time went, in seconds."""

    decode: float
    queue: float
    compute: float
    render: float
    total: float


class Explanation(_Answer):
    """One picture's explanations: a sequence of targets that are found by prompt as well.

    In a notebook it shows its overlays.

    Attributes:
        size: of the upright picture.
        input_size: of the model's input.
        grid: the patch grid.
        batch_size: how many images were computed together.
        cached: whether an earlier forward pass was used.
        targets: one for each prompt and then each target, in order.
        model: id of the model.
        layers: the explained blocks.
        score: the explained score.
        request_id: what the server's logs call the request.
        timings: of the whole request.
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

    def __getitem__(self, key: int | str) -> TargetExplanation:
        """A target by its place, its prompt or its short name.

        Raises:
            KeyError, IndexError: there is none.
        """
        if isinstance(key, int):
            return self.targets[key]
        for target in self.targets:
            if key in (target.prompt, target.target):
                return target
        raise KeyError(key)

    def __len__(self) -> int:
        """The number of targets."""
        return len(self.targets)

    def __iter__(self) -> Iterator[TargetExplanation]:  # type: ignore[override]
        """The targets in order."""
        return iter(self.targets)

    def _repr_html_(self) -> str:
        """What a notebook shows: the overlays side by side, with their numbers."""
        figures = "".join(map(_figure, self.targets))
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:12px">'
            f"{figures}</div><small>{html.escape(self.model)}, blocks "
            f"{', '.join(map(str, self.layers))}, score {html.escape(self.score)}</small>"
        )


class ModelDescription(_Answer):
    """A served model; what is not known before it is loaded is None."""

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


def explanations_of(answer: dict[str, Any]) -> list[Explanation]:
    """One explanation for each picture of an answer; each knows what it shares with the others.

    Raises:
        KeyError, pydantic.ValidationError: it is not an answer of this service.
    """
    shared = {name: answer[name] for name in ("model", "layers", "score", "request_id", "timings")}
    return [Explanation.model_validate({**image, **shared}) for image in answer["images"]]


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
    name = html.escape(target.target)
    return (
        f'<figure style="margin:0">{picture}<figcaption><b>{name}</b><br>{numbers}'
        "</figcaption></figure>"
    )
