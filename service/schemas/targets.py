"""The HTTP contract: targets of an explanation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from legrad_engine.targets.negatives import DEFAULT_THRESHOLD, NegativeMode
from service.schemas.base import EXAMPLE_IMAGE, WHOLE, ImageField, Request, Texts
from service.schemas.boxes import RequestedBox

# Upper bounds of the contract, above any real model and any useful request.
_MOST_VALUES = 65_536
_MOST_DISTRACTORS = 64
_MOST_CLASSES = 1_000_000


class TextTarget(Request):
    """A text, or several texts for one target. Give `text` or `texts`."""

    type: Literal["text"] = Field(description="Kind of target.", examples=["text"])
    text: str | None = Field(None, description="The text to look for.", examples=["a cat"])
    texts: Texts | None = Field(
        None,
        description="Several texts for one target: their unit embeddings are averaged.",
        examples=[["a cat", "a tabby"]],
    )
    words: bool = Field(
        False,
        description="Whether to return the contribution of each word to the similarity. Only for a "
        "text that is a target itself, not for one within a contrast or residual.",
        examples=[True],
    )

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.text is None) == (self.texts is None):
            raise ValueError("Give either text or texts.")
        return self


class EncodedEmbedding(Request):
    """An embedding in base64."""

    b64: str = Field(
        description="Little-endian float32 values, one after the other, in base64.",
        examples=["AACAPwAAAD8="],
    )


class EmbeddingTarget(Request):
    """A raw embedding in the joint space of the model, with any norm above zero."""

    type: Literal["embedding"] = Field(description="Kind of target.", examples=["embedding"])
    embedding: (
        Annotated[list[float], Field(min_length=1, max_length=_MOST_VALUES, fail_fast=True)]
        | EncodedEmbedding
    ) = Field(
        description="The embedding, with as many values as the model's embeddings, as a list or in "
        "base64.",
        examples=[[0.12, -0.03, 0.4]],
    )


class ImageTarget(Request):
    """Another image: the heatmap shows the parts of the explained image that resemble it."""

    type: Literal["image"] = Field(description="Kind of target.", examples=["image"])
    image: ImageField = Field(
        description='The image: a data URL, plain base64, or `{"b64": ...}`. It is squashed to '
        "the model's own input size.",
        examples=[EXAMPLE_IMAGE],
    )
    box: RequestedBox | None = Field(
        None,
        description="The region of the image that is the target, in its pixels, turned upright: at "
        "least one patch of the model wide and high. Null for the whole image.",
        examples=[{"left": 120, "top": 80, "right": 410, "bottom": 300}],
    )


class ClassTarget(Request):
    """A class of the model's own classifier. Give `index` or `label`."""

    type: Literal["class"] = Field(description="Kind of target.", examples=["class"])
    index: Annotated[int, Field(ge=0, le=_MOST_CLASSES), WHOLE] | None = Field(
        None, description="Index of the class.", examples=[281]
    )
    label: str | None = Field(
        None, max_length=1000, description="Name of the class.", examples=["tabby"]
    )

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.index is None) == (self.label is None):
            raise ValueError("Give either index or label.")
        return self


SimpleTarget = Annotated[
    TextTarget | EmbeddingTarget | ImageTarget | ClassTarget, Field(discriminator="type")
]

_CAT = {"type": "text", "text": "a cat"}
_DOG = {"type": "text", "text": "a dog"}


class ContrastTarget(Request):
    """One target against another: evidence for the first and not for the second."""

    type: Literal["contrast"] = Field(description="Kind of target.", examples=["contrast"])
    target: SimpleTarget = Field(description="The target to look for.", examples=[_CAT])
    against: SimpleTarget = Field(
        description="The target whose unit embedding is subtracted.", examples=[_DOG]
    )


class ResidualTarget(Request):
    """The part of a target's embedding that its distractors do not explain (arXiv 2606.14758)."""

    type: Literal["residual"] = Field(description="Kind of target.", examples=["residual"])
    target: SimpleTarget = Field(description="The target to look for.", examples=[_CAT])
    distractors: Annotated[
        list[SimpleTarget], Field(min_length=1, max_length=_MOST_DISTRACTORS, fail_fast=True)
    ] = Field(
        description="Targets to remove from the embedding by orthogonal matching pursuit, the most "
        "correlated first.",
        examples=[[_DOG]],
    )
    atoms: Annotated[int, Field(ge=1, le=_MOST_DISTRACTORS), WHOLE] | None = Field(
        None,
        description="Most distractors to remove; null for all.",
        examples=[2],
    )


Target = Annotated[
    TextTarget | EmbeddingTarget | ImageTarget | ClassTarget | ContrastTarget | ResidualTarget,
    Field(discriminator="type"),
]
Targets = Annotated[list[Target], Field(min_length=1, max_length=10_000, fail_fast=True)]


class NegativePrompts(Request):
    """Prompts whose heatmaps correct the heatmaps of the targets."""

    prompts: Texts = Field(
        description="Texts to suppress in the heatmaps; used as written, without templates.",
        examples=[["a photo of a"]],
    )
    mode: NegativeMode = Field(
        "subtract",
        description="`subtract` subtracts `weight` times the elementwise maximum of the negatives' "
        "raw maps from each raw map, and sets negative values to zero. `mask` sets a map to zero "
        "where a negative's map, stretched to 0..1, exceeds `threshold`.",
        examples=["mask"],
    )
    threshold: float = Field(
        DEFAULT_THRESHOLD,
        ge=0,
        lt=1,
        description="Threshold of `mask`.",
        examples=[DEFAULT_THRESHOLD],
    )
    weight: float = Field(1.0, gt=0, le=1000, description="Weight of `subtract`.", examples=[1.0])


# Fields whose errors name a branch of a union, rather than a field, as the next location.
LIST_UNIONS = frozenset({"targets", "distractors"})
SINGLE_UNIONS = frozenset({"target", "against"})
MODELS = (
    RequestedBox,
    TextTarget,
    EncodedEmbedding,
    EmbeddingTarget,
    ImageTarget,
    ClassTarget,
    ContrastTarget,
    ResidualTarget,
    NegativePrompts,
)
