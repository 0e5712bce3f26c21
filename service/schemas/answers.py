"""The HTTP contract: response bodies."""

from typing import Literal

from pydantic import BaseModel, Field

from legrad_engine.families import Score
from legrad_engine.images.regions import MAX_REGIONS
from service.schemas.base import Contract
from service.schemas.boxes import Box
from service.schemas.measurements.counterfactual import CounterfactualResult
from service.schemas.measurements.layers_report import LayersReport
from service.schemas.measurements.trust import Trust
from service.schemas.measurements.words import TextWords
from service.schemas.media_types import HeatmapType, PictureType

Stage = Literal["unknown", "receiving", "loading", "preparing", "queued", "computing", "drawing"]


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


class HeatmapRegion(Contract):
    """Connected pixels of the heatmap that reach the threshold."""

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


class MethodUse(Contract):
    """The explanation method that made the heatmaps."""

    name: str = Field(description="Its name, as in the option `method`.", examples=["legrad"])
    targeted: bool = Field(
        description="Whether a heatmap depends on its target. If not, all targets of an image have "
        "the same heatmap, overlay, regions and statistics.",
        examples=[True],
    )
    note: str | None = Field(
        description="How the method is defined for this model, if that is not evident; else null.",
        examples=[None],
    )


class TargetExplanation(Contract):
    """The heatmap, scores and regions of one target."""

    target: str = Field(
        description="Short form of the target, at most 200 characters: `a cat`, "
        '`class 281: tabby`, `image`, `"a cat" against "a dog"`.',
        examples=["a cat"],
    )
    prompt: str | None = Field(
        description="The prompt, if the target is a single text; else null.", examples=["a cat"]
    )
    head: int | None = Field(
        description="With `heads: each`, index of the attention head whose heatmap this is; else "
        "null.",
        examples=[None],
    )
    similarity: float = Field(
        description="Cosine between picture and target, as the model serves it.", examples=[0.31]
    )
    probability: float | None = Field(
        description="Of a text, its share among the texts of the request, or its own probability; "
        "of a class, its share among all classes, or its own probability: `activation` in "
        "`/models` says which; null for other targets.",
        examples=[0.97],
    )
    presence: float | None = Field(
        description="Calibrated probability, 0 to 1, that the picture shows the thing that the "
        "prompt names, whatever the other prompts are; null for other targets, if the model has no "
        "`presence` in `/models`, and where `size` or `fit` give it another input than its usual "
        "one.",
        examples=[0.94],
    )
    heatmap: str | None = Field(
        description="The heatmap in the requested format, base64; null in a multipart answer, "
        "where it is a part of its own.",
        examples=["iVBORw0KGgo..."],
    )
    heatmap_type: HeatmapType | None = Field(
        description="Media type of the heatmap; null without one.", examples=["image/png"]
    )
    overlay: str | None = Field(
        description="The overlay in the requested format, base64; null in a multipart answer, "
        "where it is a part of its own.",
        examples=["/9j/4AAQSkZJRg..."],
    )
    overlay_type: PictureType | None = Field(
        description="Media type of the overlay, as a data URL needs it; null without one.",
        examples=["image/jpeg"],
    )
    regions: list[HeatmapRegion] | None = Field(
        description=f"At most {MAX_REGIONS} regions whose pixels reach the threshold, those with "
        "the most heat (mean times area) first.",
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
    layers_report: LayersReport | None = Field(
        None,
        description="The target after every block; null unless `output.layers_report` asks for it.",
        examples=[None],
    )
    trust: Trust | None = Field(
        None,
        description="How far the heatmap can be trusted; null unless `output.trust` asks for it.",
        examples=[None],
    )
    words: list[TextWords] | None = Field(
        None,
        description="The words of each text of the target; null unless the target asks for them.",
        examples=[None],
    )


class ImageExplanation(Contract):
    """The explanations of one image."""

    size: Size = Field(
        description="Size of the original image, turned upright.",
        examples=[{"width": 640, "height": 480}],
    )
    input_size: Size = Field(
        description="Size of the model's input.", examples=[{"width": 224, "height": 224}]
    )
    grid: Grid = Field(description="The patch grid.", examples=[{"rows": 14, "columns": 14}])
    batch_size: int = Field(
        description="Number of images in the batch that computed this one, itself included.",
        examples=[4],
    )
    cached: bool = Field(
        description="Whether the forward pass of an identical image, of this or another request, "
        "was reused; on a server with API keys, of a request of the same key.",
        examples=[False],
    )
    method: MethodUse = Field(
        description="The method that made the heatmaps.",
        examples=[{"name": "legrad", "targeted": True, "note": None}],
    )
    targets: list[TargetExplanation] = Field(
        description="One entry for each prompt and then each target, in order; with `heads: each`, "
        "one for each attention head.",
        examples=[[]],
    )
    counterfactual: CounterfactualResult | None = Field(
        None,
        description="Similarities after a change of regions; null unless `output.counterfactual` "
        "asks for it.",
        examples=[None],
    )


class Timings(Contract):
    """Time spent in each stage, in seconds; with several images, that of the slowest."""

    decode: float = Field(
        description="Decoding the image and fitting it to the model's input; 0 if neither was "
        "needed.",
        examples=[0.011],
    )
    queue: float = Field(description="Waiting in the queue.", examples=[0.002])
    compute: float = Field(
        description="Forward pass and heatmaps, for the whole batch.", examples=[0.038]
    )
    render: float = Field(
        description="Drawing and encoding heatmaps and overlays.", examples=[0.021]
    )
    total: float = Field(
        description="From the arrival of the request, before its body is read, until its heatmaps "
        "are drawn.",
        examples=[0.073],
    )


class ExplainResponse(Contract):
    """The response of `/explain`."""

    request_id: str = Field(
        description="Id of this request, also in `X-Request-ID`.",
        examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"],
    )
    model: str = Field(description="Id of the model that answered.", examples=["starter"])
    layers: list[int] = Field(description="Indices of the explained blocks.", examples=[[4, 5]])
    score: Score = Field(description="The explained score.", examples=["mean"])
    cached_prompts: int = Field(
        description="Number of texts whose embedding was cached; on a server with API keys, "
        "number of texts that the same key asked about recently, whatever other keys asked.",
        examples=[1],
    )
    images: list[ImageExplanation] = Field(
        description="One entry for each image, in order.", examples=[[]]
    )
    timings: Timings = Field(
        description="Time spent in each stage, in seconds.",
        examples=[
            {"decode": 0.011, "queue": 0.002, "compute": 0.038, "render": 0.021, "total": 0.073}
        ],
    )


class ExplainProgress(Contract):
    """Progress of an unanswered explanation."""

    stage: Stage = Field(
        description="`receiving` its body, `loading` the model, `preparing` the images, "
        "`queued`, `computing` or `drawing`; `unknown` if it was answered, has not arrived, or "
        "was sent to another replica.",
        examples=["queued"],
    )
    position: int | None = Field(
        description="Place in the order of arrival, from 1, while it is queued; else null. "
        "Requests with different options take turns, so a later one may be computed first.",
        examples=[3],
    )
    estimated_seconds: float | None = Field(
        description="Estimated time until it is computed, while it is queued or being computed, "
        "from the work ahead and the measured speed; null before the first measurement.",
        examples=[1.4],
    )


class Health(Contract):
    """A successful health check."""

    status: Literal["alive", "ready"] = Field(
        description="The checked property.", examples=["ready"]
    )


class FieldProblem(Contract):
    """An error in one field."""

    field: str = Field(description="Dotted name of the field.", examples=["options.layers"])
    message: str = Field(
        description="Reason for which it was refused.",
        examples=["Input should be greater than or equal to 1"],
    )


MOST_ERRORS = 8
"""Most validation errors that one problem lists: a union reports an error for every branch."""


class ProblemDetails(BaseModel):
    """An error, as problem details (RFC 9457)."""

    type: str = Field(
        description="URI of the kind of problem.", examples=["urn:legrad:problem:queue-full"]
    )
    title: str = Field(description="Name of the kind of problem.", examples=["The queue is full"])
    status: int = Field(description="HTTP status.", examples=[429])
    detail: str = Field(
        description="Cause of the error and how to resolve it.",
        examples=["Try again in 2 seconds."],
    )
    instance: str = Field(description="Path of the request.", examples=["/explain"])
    error: str = Field(
        description="Code of the kind of problem, for programs to branch on.",
        examples=["queue-full"],
    )
    request_id: str = Field(
        description="Id of this request.", examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"]
    )
    field: str | None = Field(
        None,
        description="Field that caused the error, if it was a single one.",
        examples=["options.layers"],
    )
    errors: list[FieldProblem] | None = Field(
        None,
        description=f"The errors in fields, at most {MOST_ERRORS}, of a request that does not fit "
        "the contract.",
        examples=[[{"field": "options.layers", "message": "Input should be 'all'"}]],
    )
