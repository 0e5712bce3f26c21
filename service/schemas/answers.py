"""The HTTP contract: what an answer holds."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from legrad_engine.families import Score
from legrad_engine.targets.text import TemplateSet
from service.explaining.progress import Stage
from service.schemas.base import (
    Contract,
)

ModelState = Literal["unloaded", "loading", "ready", "unloading", "failed"]


class Size(Contract):
    """A size in pixels."""

    width: int = Field(description="Width in pixels.", examples=[640])
    height: int = Field(description="Height in pixels.", examples=[480])


class Grid(Contract):
    """A patch grid."""

    rows: int = Field(description="Rows of patches.", examples=[14])
    columns: int = Field(description="Columns of patches.", examples=[14])


class Point(Contract):
    """A position in the original picture."""

    x: int = Field(description="Pixels from the left edge.", examples=[320])
    y: int = Field(description="Pixels from the top edge.", examples=[201])


class Box(Contract):
    """A box in the original picture; right and bottom are exclusive."""

    left: int = Field(description="Left edge in pixels.", examples=[120])
    top: int = Field(description="Top edge in pixels.", examples=[80])
    right: int = Field(description="Right edge in pixels.", examples=[410])
    bottom: int = Field(description="Bottom edge in pixels.", examples=[300])


class HeatmapRegion(Contract):
    """Connected pixels of the heatmap above the threshold."""

    box: Box = Field(
        description="Smallest box around the region, in original pixels.",
        examples=[{"left": 120, "top": 80, "right": 410, "bottom": 300}],
    )
    area: float = Field(description="Share of the picture, 0 to 1.", examples=[0.12])
    peak: float = Field(description="Largest heatmap value inside, 0 to 1.", examples=[1.0])
    peak_position: Point = Field(
        description="Where the peak is, in original pixels.", examples=[{"x": 320, "y": 201}]
    )
    mean: float = Field(description="Mean heatmap value inside, 0 to 1.", examples=[0.71])


class HeatmapStatistics(Contract):
    """Numbers that describe a heatmap, computed on the raw patch grid."""

    peak: float = Field(description="Largest raw value.", examples=[0.00042])
    peak_position: Point = Field(
        description="Where the peak is, in original pixels.", examples=[{"x": 320, "y": 201}]
    )
    mean: float = Field(description="Mean raw value.", examples=[0.00011])
    entropy: float = Field(
        description="How spread out the map is: 0 for one patch, 1 for an even map.",
        examples=[0.83],
    )
    border_mass: float = Field(
        description="Share of the map in the outermost ring of patches, 0 to 1.", examples=[0.09]
    )


class TargetExplanation(Contract):
    """Where the model looked for one target."""

    target: str = Field(
        description="The target in short, at most 200 characters: `a cat`, `class 281: tabby`, "
        '`image`, `"a cat" against "a dog"`.',
        examples=["a cat"],
    )
    prompt: str | None = Field(
        description="The prompt, where the target is one text.", examples=["a cat"]
    )
    similarity: float = Field(
        description="Cosine between picture and target, as the model serves it.", examples=[0.31]
    )
    probability: float | None = Field(
        description="Of a text, the model's probability among the texts of the request; of a "
        "class, the classifier's among all its classes; null for other targets.",
        examples=[0.97],
    )
    heatmap: str | None = Field(
        description="The heatmap in the requested format, base64.", examples=["iVBORw0KGgo..."]
    )
    overlay: str | None = Field(
        description="The overlay as PNG, base64.", examples=["iVBORw0KGgo..."]
    )
    regions: list[HeatmapRegion] | None = Field(
        description="Regions above the threshold, the heaviest first.",
        examples=[
            [
                {
                    "box": {"left": 120, "top": 80, "right": 410, "bottom": 300},
                    "area": 0.12,
                    "peak": 1.0,
                    "peak_position": {"x": 320, "y": 201},
                    "mean": 0.71,
                }
            ]
        ],
    )
    statistics: HeatmapStatistics = Field(
        description="Numbers that describe the heatmap.",
        examples=[
            {
                "peak": 0.00042,
                "peak_position": {"x": 320, "y": 201},
                "mean": 0.00011,
                "entropy": 0.83,
                "border_mass": 0.09,
            }
        ],
    )


class ImageExplanation(Contract):
    """The explanations of one picture."""

    size: Size = Field(
        description="The upright original.", examples=[{"width": 640, "height": 480}]
    )
    input_size: Size = Field(
        description="The model's input.", examples=[{"width": 224, "height": 224}]
    )
    grid: Grid = Field(description="The patch grid.", examples=[{"rows": 14, "columns": 14}])
    batch_size: int = Field(
        description="How many images were computed together with this one.", examples=[4]
    )
    cached: bool = Field(
        description="Whether the forward pass of an equal picture, of this or another request, "
        "was used in place of one of its own.",
        examples=[False],
    )
    targets: list[TargetExplanation] = Field(
        description="One entry for each prompt and then each target, in order.", examples=[[]]
    )


class Timings(Contract):
    """Where the time went, in seconds. Of several images the slowest counts."""

    decode: float = Field(
        description="Decoding and fitting the picture; 0 where that was not needed.",
        examples=[0.011],
    )
    queue: float = Field(description="Waiting for the worker.", examples=[0.002])
    compute: float = Field(description="Model and LeGrad, for the whole batch.", examples=[0.038])
    render: float = Field(description="Drawing and encoding.", examples=[0.021])
    total: float = Field(description="From the read request to the answer.", examples=[0.073])


class ExplainResponse(Contract):
    """The answer to `/explain`."""

    request_id: str = Field(
        description="Id of this request, also in `X-Request-ID`.",
        examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"],
    )
    model: str = Field(description="Id of the model that answered.", examples=["starter"])
    layers: list[int] = Field(description="Indices of the explained blocks.", examples=[[4, 5]])
    score: Score = Field(description="The explained score.", examples=["mean"])
    cached_prompts: int = Field(
        description="Texts whose embedding was already known.", examples=[1]
    )
    images: list[ImageExplanation] = Field(
        description="One entry for each picture, in order.", examples=[[]]
    )
    timings: Timings = Field(
        description="Where the time went, in seconds.",
        examples=[
            {"decode": 0.011, "queue": 0.002, "compute": 0.038, "render": 0.021, "total": 0.073}
        ],
    )


class ExplainProgress(Contract):
    """How far an explanation is that is not answered yet."""

    stage: Stage = Field(
        description="`receiving` its body, `loading` the model, `preparing` the pictures, "
        "`queued`, `computing` or `drawing`; `unknown` if it was answered, has not arrived, or "
        "is held by another replica.",
        examples=["queued"],
    )
    position: int | None = Field(
        description="While it is queued, its place in the order of arrival, from 1; null else. "
        "Requests with other options take turns, so one that came later may go first.",
        examples=[3],
    )
    estimated_seconds: float | None = Field(
        description="While it is queued or computed, about how long until it is computed, from "
        "the work ahead and the measured speed; null where nothing was measured yet.",
        examples=[1.4],
    )


class ModelInfo(Contract):
    """A served model. What is not known before it is loaded is null."""

    id: str = Field(description="Id for the `model` field.", examples=["starter"])
    name: str = Field(
        description="Architecture, config, folder or repository.", examples=["starter"]
    )
    pretrained: str | None = Field(
        description="Tag, or file name of the checkpoint.", examples=["laion2b_s34b_b88k"]
    )
    default: bool = Field(description="Whether requests without `model` go here.", examples=[True])
    state: ModelState = Field(description="What it can do now.", examples=["ready"])
    error: str | None = Field(description="Why loading failed, if it did.", examples=[None])
    loads_on_request: bool = Field(
        description="Whether a request loads it when it is not loaded: not after an operator has "
        "unloaded it from a server that loads models at start, nor after loading has failed.",
        examples=[True],
    )
    in_flight: int = Field(description="Requests that are using it.", examples=[0])
    last_used: AwareDatetime | None = Field(
        description="When a request last used it.", examples=["2026-01-31T12:00:00Z"]
    )
    device: str | None = Field(description="Where it runs.", examples=["cpu"])
    dtype: str | None = Field(description="Precision it runs in.", examples=["float32"])
    bytes: int | None = Field(description="Size of its weights in bytes.", examples=[36_000_000])
    family: str | None = Field(description="Architecture family.", examples=["openclip-vit"])
    image_size: Size | None = Field(
        description="The input its weights were made for.", examples=[{"width": 224, "height": 224}]
    )
    patch_size: Size | None = Field(
        description="One patch.", examples=[{"width": 16, "height": 16}]
    )
    grid: Grid | None = Field(
        description="Patch grid at that size.", examples=[{"rows": 14, "columns": 14}]
    )
    layers: int | None = Field(description="Number of blocks.", examples=[12])
    scores: list[Score] | None = Field(
        description="Scores it can explain, its default first.", examples=[["mean", "cls"]]
    )
    templates: list[TemplateSet] | None = Field(
        description="Named sets of prompt templates it accepts, beside templates of one's own; "
        "none where it reads no text.",
        examples=[["simple", "openai"]],
    )
    licence: str | None = Field(
        description="Licence of the weights, where known.", examples=["Apache-2.0"]
    )


class ModelList(Contract):
    """The served models."""

    models: list[ModelInfo] = Field(
        description="The served models, the default one first.", examples=[[]]
    )


class Health(Contract):
    """A healthy answer."""

    status: Literal["alive", "ready"] = Field(description="What is true.", examples=["ready"])


class FieldProblem(Contract):
    """What is wrong with one field."""

    field: str = Field(description="Dotted name of the field.", examples=["options.layers"])
    message: str = Field(
        description="What is wrong.", examples=["Input should be greater than or equal to 1"]
    )


class ProblemDetails(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(
        description="URI of the kind of problem.", examples=["urn:legrad:problem:queue-full"]
    )
    title: str = Field(description="The kind in words.", examples=["The queue is full"])
    status: int = Field(description="HTTP status.", examples=[429])
    detail: str = Field(
        description="What happened and what to do.", examples=["Try again in 2 seconds."]
    )
    instance: str = Field(description="Path of the request.", examples=["/explain"])
    error: str = Field(description="Slug of the kind, to branch on.", examples=["queue-full"])
    request_id: str = Field(
        description="Id of this request.", examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"]
    )
    field: str | None = Field(
        None, description="The field to blame, if one is.", examples=["options.layers"]
    )
    errors: list[FieldProblem] | None = Field(
        None,
        description="All fields to blame, if several are.",
        examples=[[{"field": "options.layers", "message": "Input should be 'all'"}]],
    )
