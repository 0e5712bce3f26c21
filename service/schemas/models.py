"""The HTTP contract: answers about models."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from legrad_engine.families import Score
from legrad_engine.methods import TakenLayers
from legrad_engine.models.preprocessing import Interpolation, ResizeMode
from legrad_engine.targets.templates import TemplateSet
from service.schemas.answers import Grid, Health, Size
from service.schemas.base import Contract
from service.schemas.sanity import SanityCheck

Activation = Literal["softmax", "sigmoid"]
ModelState = Literal["unloaded", "loading", "ready", "unloading", "failed"]
WorkerState = Literal["created", "starting", "ready", "restarting", "draining", "stopped", "failed"]
PerChannel = Annotated[list[float], Field(min_length=3, max_length=3)]
Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


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


class OfferedMethod(Contract):
    """An explanation method that a model offers."""

    name: str = Field(description="Name for the option `method`.", examples=["legrad"])
    title: str = Field(description="Its name in text.", examples=["LeGrad"])
    description: str = Field(
        description="What its heatmaps show, in at most three short lines.",
        examples=["The gradient of each block's own score with respect to its attention."],
    )
    source: str = Field(
        description="Its origin.", examples=["Bousselham et al., ICCV 2025, arXiv 2404.03214"]
    )
    targeted: bool = Field(
        description="Whether a heatmap depends on its target; if not, `negatives` are refused.",
        examples=[True],
    )
    splits_heads: bool = Field(
        description="Whether the option `heads` may be `each`.", examples=[False]
    )
    layers: list[int] = Field(
        description="Indices of the blocks that it explains by default.", examples=[[4, 5]]
    )
    layers_taken: TakenLayers = Field(
        description="Blocks that the option `layers` may name: `any`; `last-blocks`, a number of "
        "last blocks without a gap; `last`, the last block alone; or `all`.",
        examples=["any"],
    )
    score: Score = Field(description="Score that it explains by default.", examples=["mean"])
    note: str | None = Field(
        description="How it is defined for this model, if that is not evident; else null.",
        examples=[None],
    )


class ModelWorker(Contract):
    """The worker of one device."""

    device: str = Field(description="Its device.", examples=["cuda:0"])
    state: WorkerState = Field(
        description="`ready`, or the reason why the device computes nothing now; `failed` also "
        "for a device that could not load its copy of the model.",
        examples=["ready"],
    )
    error: str | None = Field(
        description="Reason for which the device has no copy of the model; null if it has one.",
        examples=[None],
    )


class DegradedDevice(Contract):
    """A device that computes nothing now for a model that is loaded."""

    model: str = Field(description="Id of the model.", examples=["starter"])
    device: str = Field(description="The device.", examples=["cuda:1"])
    state: WorkerState = Field(
        description="State of its worker, as in `/models`.", examples=["restarting"]
    )


class ServerHealth(Health):
    """A successful check of the server's readiness."""

    degraded: list[DegradedDevice] = Field(
        description="Devices that compute nothing now for a model that is loaded; other devices "
        "answer the requests of the default model. `/models` has the reasons.",
        examples=[[]],
    )


class Presence(Contract):
    """The logistic curve from a similarity to the probability that a picture shows the thing."""

    slope: float = Field(description="Steepness of the curve.", examples=[14.2])
    intercept: float = Field(
        description="Logit of the probability at a similarity of 0.", examples=[-4.1]
    )
    pairs_with: int = Field(
        description="Number of pairs of a picture and a text that it shows, of the fit.",
        examples=[4000],
    )
    pairs_without: int = Field(
        description="Number of pairs of a picture and a text that it does not show.",
        examples=[4000],
    )
    brier: float = Field(
        description="Mean squared error of the probability on pictures left out of the fit.",
        examples=[0.11],
    )
    calibration_error: float = Field(
        description="Expected calibration error on pictures left out of the fit: the mean gap of "
        "probability and frequency.",
        examples=[0.02],
    )
    source: str = Field(
        description="Origin of the pairs.", examples=["4,000 scenes in the styles of training"]
    )
    weights: str = Field(
        description="The weights that it belongs to.",
        examples=["blake2b:6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"],
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
        "commas. `workers` also has devices that could not load their copy.",
        examples=["cpu"],
    )
    workers: list[ModelWorker] | None = Field(
        description="The worker of each device.",
        examples=[[{"device": "cpu", "state": "ready", "error": None}]],
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
    methods: list[OfferedMethod] | None = Field(
        description="Explanation methods that it offers, the default one first.", examples=[[]]
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
    check: SanityCheck | None = Field(
        None,
        description="Result of `legrad check` for its weights; null if it was not run before "
        "the model was loaded.",
        examples=[None],
    )
    presence: Presence | None = Field(
        description="The calibration of `presence` in answers, known before the model is loaded; "
        "null if it has none.",
        examples=[None],
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
