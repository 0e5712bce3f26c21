"""The HTTP contract: request bodies."""

from typing import Annotated, Literal

from pydantic import Field

from legrad_engine.families import Score
from legrad_engine.images.change_kinds import Change
from legrad_engine.images.encoding import DEFAULT_QUALITY, HeatmapFormat, PictureFormat
from legrad_engine.images.file_formats import DEFAULT_MAX_SIDE
from legrad_engine.images.geometry import Fit
from legrad_engine.images.regions import MAX_REGIONS
from legrad_engine.images.rendering import (
    DEFAULT_ALPHA,
    DEFAULT_COLORMAP,
    ColormapName,
    Normalization,
)
from legrad_engine.measurements.trust.levels import TrustLevel
from legrad_engine.methods import DEFAULT_METHOD, Heads
from legrad_engine.targets.negatives import NegativePreset
from legrad_engine.targets.templates import TemplateSet
from service.schemas import targets as target_schemas
from service.schemas.base import (
    EXAMPLE_IMAGE,
    WHOLE,
    AnyImage,
    EncodedImage,
    Request,
    Texts,
    UrlImage,
)
from service.schemas.boxes import RequestedBox
from service.schemas.targets import NegativePrompts, Targets

# Upper bounds of the contract, far above the servers' own limits, which are settings.
_MOST_PIXELS = 65_536
_MOST_REGIONS = 1000
_Count = Annotated[int, Field(ge=1, le=1000), WHOLE]
_Index = Annotated[int, Field(ge=-1000, le=999), WHOLE]
_Indices = Annotated[list[_Index], Field(min_length=1, max_length=1000, fail_fast=True)]


class ExplainOptions(Request):
    """Options of the computation."""

    method: str = Field(
        DEFAULT_METHOD,
        min_length=1,
        max_length=64,
        description="Explanation method, by its name: `/models` lists those that each model "
        "offers, and what they are.",
        examples=[DEFAULT_METHOD],
    )
    heads: Heads = Field(
        "mean",
        description="Attention heads of the map: `mean`, or `each` for one map of each head, in "
        "methods that have them; such a request has one prompt or target, because no target "
        "changes these maps.",
        examples=["mean"],
    )
    layers: _Count | Literal["all"] | _Indices | None = Field(
        None,
        description="Blocks to explain: a number of last blocks, `all`, or block indices from 0 "
        "(negative ones count from the end); null for the method's default, with `legrad` the last "
        "two.",
        examples=[2],
    )
    score: Score | None = Field(
        None,
        description="Score to explain: `mean`, the mean of all tokens, as in the paper; `cls`, the "
        "class token, whose logit such a model serves; `pooler`, the output of an attentional "
        "pooler; null for the method's default, with `legrad` the first of the model's `scores`.",
        examples=["mean"],
    )
    size: Annotated[int, Field(ge=1, le=_MOST_PIXELS), WHOLE] | None = Field(
        None,
        description="Side of the model's input in pixels, a multiple of its patch size; null for "
        "the model's own size. A larger input gives a finer heatmap and costs more.",
        examples=[224],
    )
    fit: Fit = Field(
        "squash",
        description="How a non-square image is fitted to the square input: `squash` changes its "
        "aspect ratio, `pad` keeps it and adds borders, `native` keeps it and uses a non-square "
        "grid of about as many patches.",
        examples=["squash"],
    )
    templates: TemplateSet | Texts | None = Field(
        None,
        description="Prompt templates, whose embeddings are averaged: `simple` (7), `openai` (80), "
        "your own strings with one `{}` each, or null for the prompt as written.",
        examples=["simple"],
    )
    negatives: NegativePrompts | NegativePreset | None = Field(
        None,
        description="Prompts to suppress in the heatmaps; `siglip` is the reference "
        "implementation's background correction for SigLIP models.",
        examples=["siglip"],
    )
    cache: bool = Field(
        True,
        description="Whether to reuse cached forward passes of images and embeddings of texts, and "
        "to cache new ones; false computes every image and text anew and caches nothing.",
        examples=[True],
    )


class CounterfactualOptions(Request):
    """A change of the image, after which all similarities are measured again."""

    regions: (
        Annotated[list[RequestedBox], Field(min_length=1, max_length=_MOST_REGIONS, fail_fast=True)]
        | Literal["warmest"]
    ) = Field(
        "warmest",
        description="Regions of each image that are changed together, in its pixels, turned "
        "upright; or `warmest`, the heaviest region of each target's heatmap above half its range, "
        "one after the other: a forward pass for each target.",
        examples=[[{"left": 120, "top": 80, "right": 410, "bottom": 300}]],
    )
    change: Change = Field(
        "blur",
        description="How a region is changed: `blur`, by a standard deviation of a sixteenth of "
        "the shorter side; or `mean`, filled with the mean colour of the image.",
        examples=["blur"],
    )


class OutputOptions(Request):
    """Options of the response."""

    heatmap: HeatmapFormat = Field(
        "png",
        description="Format of heatmaps: `png` (8-bit), `png16` (16-bit), `jpeg` or `webp` (8-bit, "
        "smaller and not exact), `npy` (NumPy file of the raw float32 patch grid, neither "
        "upsampled nor normalised), or `none`.",
        examples=["png"],
    )
    overlay: bool = Field(
        True, description="Whether to return the heatmap drawn over the image.", examples=[True]
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
        description="Normalisation of heatmaps and overlays: `each` stretches every target to "
        "0..1, `shared` stretches all targets of an image alike, `none` clips raw values to 0..1 "
        "(they are far below 1; use `npy` to compute with them).",
        examples=["each"],
    )
    regions_threshold: float | None = Field(
        0.5,
        gt=0,
        lt=1,
        description="Value of the heatmap, stretched to 0..1, that the pixels of a region reach; "
        f"connected ones form a region. At most {MAX_REGIONS} are given, those with the most heat "
        "first; null "
        "for no regions.",
        examples=[0.5],
    )
    max_side: Annotated[int, Field(ge=16, le=_MOST_PIXELS), WHOLE] = Field(
        DEFAULT_MAX_SIDE,
        description="Longest side of drawn heatmaps and overlays in pixels; smaller images keep "
        "their size.",
        examples=[DEFAULT_MAX_SIDE],
    )
    format: PictureFormat = Field(
        "jpeg",
        description="Format of overlays: `jpeg` or `webp`, which lose detail that is hard to see, "
        "or `png`, which loses nothing.",
        examples=["jpeg"],
    )
    quality: Annotated[int, Field(ge=1, le=100), WHOLE] = Field(
        DEFAULT_QUALITY,
        description="Quality of overlays and heatmaps in JPEG and WebP.",
        examples=[DEFAULT_QUALITY],
    )
    trust: TrustLevel | None = Field(
        None,
        description="Whether to measure how far each heatmap can be trusted, and how much: `free` "
        "compares maps and costs no further forward pass; `quick` also removes the warmest, the "
        "coldest and a random fifth of the patches and mirrors the image, about 3.5 passes for one "
        "target; `curves` also removes patches step by step, some 20 passes more for each target; "
        "null for nothing.",
        examples=["quick"],
    )
    layers_report: bool = Field(
        False,
        description="Whether to tell where in the model the decision forms: similarity and rank of "
        "every target after each block, and with the method `textspan` the direct effect of each "
        "block and head. It costs about one more forward pass for each image.",
        examples=[True],
    )
    counterfactual: CounterfactualOptions | None = Field(
        None,
        description="Regions to change: the answer has the new similarities of all targets; null "
        "for none.",
        examples=[{"regions": "warmest", "change": "blur"}],
    )


class ExplainBody(Request):
    """Prompts, targets, or both, and the options of computation and response."""

    prompts: Texts | None = Field(
        None,
        description="Texts to look for: short for targets of type `text`.",
        examples=[["a cat", "a dog"]],
    )
    targets: Targets | None = Field(
        None,
        description="What to look for: texts, images, classes, embeddings, or combinations of "
        "them. If a request has both, `prompts` come first.",
        examples=[[{"type": "text", "text": "a cat"}]],
    )
    options: ExplainOptions = Field(
        default_factory=ExplainOptions,
        description="Options of the computation.",
        examples=[{"layers": 2}],
    )
    output: OutputOptions = Field(
        default_factory=OutputOptions,
        description="Options of the response.",
        examples=[{"heatmap": "png", "overlay": True}],
    )


class ExplainRequest(ExplainBody):
    """One or several images, with the prompts, targets, or both, to explain in each.

    Give either `image` or `images`; give `prompts`, `targets`, or both.
    """

    image: AnyImage | None = Field(
        None,
        description='One image: a data URL, plain base64, `{"b64": ...}` or `{"url": ...}`.',
        examples=[EXAMPLE_IMAGE],
    )
    images: Annotated[list[AnyImage], Field(min_length=1, fail_fast=True)] | None = Field(
        None,
        description="Several images, in place of `image`.",
        examples=[[EXAMPLE_IMAGE]],
    )
    model: str | None = Field(
        None,
        max_length=256,
        description="Id of a model from `/models`, or its name as in the settings; null for the "
        "default model.",
        examples=["starter"],
    )


# All field names in a request.
FIELD_NAMES = frozenset(
    name
    for model in (
        ExplainRequest,
        ExplainOptions,
        OutputOptions,
        CounterfactualOptions,
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
"""Maps the name of each option to the request field that contains it."""
