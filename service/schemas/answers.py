"""The HTTP contract: response bodies."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field

from legrad_engine.families import Score
from legrad_engine.models.preprocessing import Interpolation, ResizeMode
from legrad_engine.targets.templates import TemplateSet
from service.schemas.base import Contract

Activation = Literal["softmax", "sigmoid"]
ModelState = Literal["unloaded", "loading", "ready", "unloading", "failed"]
WorkerState = Literal["created", "starting", "ready", "restarting", "draining", "stopped", "failed"]
PerChannel = Annotated[list[float], Field(min_length=3, max_length=3)]
Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
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
    """The heatmap, scores and regions of one target."""

    target: str = Field(
        description="Short form of the target, at most 200 characters: `a cat`, "
        '`class 281: tabby`, `image`, `"a cat" against "a dog"`.',
        examples=["a cat"],
    )
    prompt: str | None = Field(
        description="The prompt, if the target is a single text; else null.", examples=["a cat"]
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
    targets: list[TargetExplanation] = Field(
        description="One entry for each prompt and then each target, in order.", examples=[[]]
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
        description="From the end of reading the request to the response.", examples=[0.073]
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


class Preprocessing(Contract):
    """The way from an image to the numbers that a model reads."""

    mean: PerChannel = Field(
        description="Mean per channel, for values in 0 to 1.", examples=[[0.5, 0.5, 0.5]]
    )
    std: PerChannel = Field(
        description="Standard deviation per channel, for values in 0 to 1.",
        examples=[[0.5, 0.5, 0.5]],
    )
    interpolation: Interpolation = Field(
        description="Filter that resizes images.", examples=["bicubic"]
    )
    resize_mode: ResizeMode | None = Field(
        description="How the model's own evaluation fits an image that is not square: crop its "
        "middle (shortest), stretch it (squash) or pad it (longest); null if unknown. The option "
        "`fit` of a request decides here.",
        examples=["squash"],
    )
    fill_color: Color | None = Field(
        description="Colour of padding, in 8-bit RGB; null for the mean colour.", examples=[None]
    )
    source: str = Field(
        description="Origin of these values.",
        examples=["all of open_clip's pretrained tags for ViT-B-16-SigLIP"],
    )
    is_guess: bool = Field(
        description="Whether the weights may have been trained with other values: state them in "
        "the model's config, or name the tag that the weights were made from.",
        examples=[False],
    )


class ModelWorker(Contract):
    """The worker of one device."""

    device: str = Field(description="Its device.", examples=["cuda:0"])
    state: WorkerState = Field(
        description="`ready`, or the reason why the device computes nothing now.",
        examples=["ready"],
    )


class ModelInfo(Contract):
    """A served model. Fields that are unknown until it is loaded are null."""

    id: str = Field(description="Id for the `model` field.", examples=["starter"])
    name: str = Field(
        description="Architecture, config, folder or repository.", examples=["starter"]
    )
    pretrained: str | None = Field(
        description="Tag, or file name of the checkpoint.", examples=["laion2b_s34b_b88k"]
    )
    default: bool = Field(
        description="Whether requests without `model` use this model.", examples=[True]
    )
    state: ModelState = Field(description="State of the model.", examples=["ready"])
    error: str | None = Field(
        description="Reason for which loading failed; else null.", examples=[None]
    )
    loads_on_request: bool = Field(
        description="Whether a request loads the model if it is not loaded. False after an "
        "operator has unloaded it from a server that loads models at start, and after loading has "
        "failed.",
        examples=[True],
    )
    in_flight: int = Field(
        description="Number of requests in progress with this model.", examples=[0]
    )
    last_used: AwareDatetime | None = Field(
        description="Time of the last request with this model.", examples=["2026-01-31T12:00:00Z"]
    )
    device: str | None = Field(
        description="Device it runs on; several, each with a copy of the model, are separated by "
        "commas.",
        examples=["cpu"],
    )
    workers: list[ModelWorker] | None = Field(
        description="The worker of each device.", examples=[[{"device": "cpu", "state": "ready"}]]
    )
    max_batch_images: int | None = Field(
        description="Most images in one batch: the setting, or the smaller number at which the "
        "warm-up found the device busy.",
        examples=[16],
    )
    dtype: str | None = Field(description="Precision it runs in.", examples=["float32"])
    bytes: int | None = Field(
        description="Size of its weights in bytes, of all copies.", examples=[36_000_000]
    )
    family: str | None = Field(description="Architecture family.", examples=["openclip-vit"])
    image_size: Size | None = Field(
        description="Input size its weights were trained for.",
        examples=[{"width": 224, "height": 224}],
    )
    patch_size: Size | None = Field(
        description="Size of one patch.", examples=[{"width": 16, "height": 16}]
    )
    grid: Grid | None = Field(
        description="Patch grid at `image_size`.", examples=[{"rows": 14, "columns": 14}]
    )
    layers: int | None = Field(description="Number of blocks.", examples=[12])
    scores: list[Score] | None = Field(
        description="Scores it can explain, its default first.", examples=[["mean", "cls"]]
    )
    templates: list[TemplateSet] | None = Field(
        description="Named sets of prompt templates it accepts, beside your own templates; none "
        "if it has no text tower.",
        examples=[["simple", "openai"]],
    )
    classes: int | None = Field(
        description="Number of classes of its classifier, which `/models/{model_id}/classes` "
        "lists; 0 if it has none.",
        examples=[1000],
    )
    licence: str | None = Field(
        description="Licence of the weights, if known.", examples=["Apache-2.0"]
    )
    activation: Activation | None = Field(
        description="How its probabilities are made: a `softmax` gives shares among the texts of "
        "an image, or among all classes, which sum to 1; a `sigmoid` judges each on its own. Null "
        "if it gives no probabilities.",
        examples=["softmax"],
    )
    preprocessing: Preprocessing | None = Field(
        description="The way from an image to the numbers that it reads.",
        examples=[
            {
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "interpolation": "bicubic",
                "resize_mode": "squash",
                "fill_color": None,
                "source": "all of open_clip's pretrained tags for ViT-B-16-SigLIP",
                "is_guess": False,
            }
        ],
    )


class ModelClass(Contract):
    """A class of a model's classifier."""

    index: int = Field(description="Index for a target of type `class`.", examples=[281])
    label: str | None = Field(
        description="Label, one name or several separated by commas; null if the model's classes "
        "have no names.",
        examples=["tabby, tabby cat"],
    )


class ClassList(Contract):
    """A page of the classes of a model's classifier."""

    total: int = Field(
        description="Number of classes of the model; 0 if it has no classifier.", examples=[1000]
    )
    found: int = Field(description="Number of classes that match the search.", examples=[1])
    classes: list[ModelClass] = Field(
        description="The matching classes from `offset`, at most `limit` of them. With a search, "
        "equal names come first, then those that contain it as a whole word.",
        examples=[[{"index": 281, "label": "tabby, tabby cat"}]],
    )


class ModelList(Contract):
    """The served models."""

    models: list[ModelInfo] = Field(
        description="The served models, the default one first.", examples=[[]]
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
        description="All errors in fields, if there are several.",
        examples=[[{"field": "options.layers", "message": "Input should be 'all'"}]],
    )
