"""The HTTP contract: what a request may hold."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from legrad_engine.families import Score
from legrad_engine.images.geometry import Fit
from legrad_engine.images.rendering import (
    DEFAULT_ALPHA,
    DEFAULT_COLORMAP,
    ColormapName,
    Normalization,
)
from legrad_engine.targets.negatives import NegativePreset
from legrad_engine.targets.text import TemplateSet
from service.schemas import targets as target_schemas
from service.schemas.base import (
    EXAMPLE_IMAGE,
    WHOLE,
    AnyImage,
    EncodedImage,
    Request,
    Texts,
    UrlImage,
    any_of,
    one_of,
)
from service.schemas.targets import NegativePrompts, Targets

HeatmapFormat = Literal["png", "png16", "npy", "none"]

# Ceilings of the contract, far above what a server allows; its settings say how much that is.
_MOST_PIXELS = 65_536
_Count = Annotated[int, Field(ge=1, le=1000), WHOLE]
_Index = Annotated[int, Field(ge=-1000, le=999), WHOLE]
_Indices = Annotated[list[_Index], Field(min_length=1, max_length=1000, fail_fast=True)]


class ExplainOptions(Request):
    """What is computed."""

    layers: _Count | Literal["all"] | _Indices | None = Field(
        None,
        description="Explained blocks: a count of last blocks, `all`, or block indices from 0 "
        "(negative ones count from the end); null for the last two.",
        examples=[2],
    )
    score: Score | None = Field(
        None,
        description="What is explained: `mean` of all tokens as in the paper, `cls`, the very "
        "logit that a class-token model serves, or `pooler`, that of a model with an attentional "
        "pooler; null for the first of the model's `scores`.",
        examples=["mean"],
    )
    size: Annotated[int, Field(ge=1, le=_MOST_PIXELS), WHOLE] | None = Field(
        None,
        description="Side of the model's input in pixels, a multiple of its patch; null for the "
        "model's own size. Larger gives a finer map and costs more.",
        examples=[224],
    )
    fit: Fit = Field(
        "squash",
        description="How the picture is fitted to the input: `squash` to a square, `pad` to a "
        "square keeping its shape, or `native`, its shape on as many patches.",
        examples=["squash"],
    )
    templates: TemplateSet | Texts | None = Field(
        None,
        description="Prompt templates that are averaged: `simple` (7), `openai` (80), strings of "
        "your own with one `{}` each, or null for the prompt as written.",
        examples=["simple"],
    )
    negatives: NegativePrompts | NegativePreset | None = Field(
        None,
        description="What the maps must not show; `siglip` is the reference implementation's "
        "background correction for SigLIP models.",
        examples=["siglip"],
    )
    cache: bool = Field(
        True,
        description="Whether to use, and to keep for later requests, what is known of the "
        "pictures; false computes each of them anew and keeps nothing.",
        examples=[True],
    )


class OutputOptions(Request):
    """What is sent back."""

    heatmap: HeatmapFormat = Field(
        "png",
        description="Heatmap as 8-bit PNG, 16-bit PNG, NumPy file of the raw float32 patch grid "
        "(neither upsampled nor normalised), or none.",
        examples=["png"],
    )
    overlay: bool = Field(
        True, description="Whether to send the heatmap drawn over the picture.", examples=[True]
    )
    colormap: ColormapName = Field(
        DEFAULT_COLORMAP, description="Colours of the overlay.", examples=[DEFAULT_COLORMAP]
    )
    alpha: float = Field(
        DEFAULT_ALPHA,
        ge=0,
        le=1,
        description="Opacity of the overlay's colours.",
        examples=[DEFAULT_ALPHA],
    )
    normalize: Normalization = Field(
        "each",
        description="Range of heatmaps and overlays: `each` target stretched to 0..1, `shared` "
        "stretched once for all targets of an image, `none` for raw values clipped to 0..1 (they "
        "are far below 1, so ask for `npy` instead to work with them).",
        examples=["each"],
    )
    regions_threshold: float | None = Field(
        0.5,
        gt=0,
        lt=1,
        description="Level of the 0..1 heatmap above which connected pixels form a region; null "
        "for no regions.",
        examples=[0.5],
    )
    max_side: Annotated[int, Field(ge=16, le=_MOST_PIXELS), WHOLE] = Field(
        1024,
        description="Longest side of PNG heatmaps and overlays in pixels; smaller pictures keep "
        "their size.",
        examples=[1024],
    )


class ExplainBody(Request):
    """What is asked of pictures, by prompts, targets, or both, and what is sent back."""

    model_config = ConfigDict(json_schema_extra=any_of("prompts", "targets"))

    prompts: Texts | None = Field(
        None,
        description="What to look for, in words: short for targets of type `text`.",
        examples=[["a cat", "a dog"]],
    )
    targets: Targets | None = Field(
        None,
        description="What to look for, in words, by example, by class, or combined. Of a request "
        "that has both, the prompts come first.",
        examples=[[{"type": "text", "text": "a cat"}]],
    )
    options: ExplainOptions = Field(
        default_factory=ExplainOptions, description="What is computed.", examples=[{"layers": 2}]
    )
    output: OutputOptions = Field(
        default_factory=OutputOptions,
        description="What is sent back.",
        examples=[{"heatmap": "png", "overlay": True}],
    )


class ExplainRequest(ExplainBody):
    """One or several pictures, and what to look for in each: prompts, targets, or both."""

    model_config = ConfigDict(
        json_schema_extra={**any_of("prompts", "targets"), **one_of("image", "images")}
    )

    image: AnyImage | None = Field(
        None,
        description='One picture: a data URL, plain base64, `{"b64": ...}` or `{"url": ...}`.',
        examples=[EXAMPLE_IMAGE],
    )
    images: Annotated[list[AnyImage], Field(min_length=1, fail_fast=True)] | None = Field(
        None,
        description="Several pictures, in place of `image`.",
        examples=[[EXAMPLE_IMAGE]],
    )
    model: str | None = Field(
        None,
        max_length=256,
        description="Id of a model from `/models`; null for the default one.",
        examples=["starter"],
    )


# Every name that a request may hold.
FIELD_NAMES = frozenset(
    name
    for model in (
        ExplainRequest,
        ExplainOptions,
        OutputOptions,
        EncodedImage,
        UrlImage,
        *target_schemas.MODELS,
    )
    for name in model.model_fields
)

HOMES = {
    name: home
    for home, model in (("options", ExplainOptions), ("output", OutputOptions))
    for name in model.model_fields
}
"""The field of a request that each field of its options is in."""
