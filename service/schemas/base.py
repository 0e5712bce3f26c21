"""What the models of the contract share."""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
)

from service.settings.url_policy import LONGEST_URL

# Two pixels of red, small enough to read in the documentation.
EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGP4z8AARAwQAAYG"
    "AP8FBAEAKlqSAAAAAElFTkSuQmCC"
)


class Contract(BaseModel):
    """Base of everything that is sent or received."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Request(Contract):
    """Base of everything that is received: nothing is converted, nothing is guessed."""

    model_config = ConfigDict(strict=True)


def one_of(*names: str) -> dict[str, JsonValue]:
    """For ``json_schema_extra``: exactly one of these fields is there and not null."""
    return {"oneOf": [_given(name) for name in names]}


def any_of(*names: str) -> dict[str, JsonValue]:
    """For ``json_schema_extra``: at least one of these fields is there and not null."""
    return {"anyOf": [_given(name) for name in names]}


def _given(name: str) -> JsonValue:
    anything_but_null = ["array", "boolean", "number", "object", "string"]
    return {"required": [name], "properties": {name: {"type": [*anything_but_null]}}}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one kind of number: 2.0 is as whole as 2. Goes behind the bounds of an integer, or the
# contract would lose them.
WHOLE = BeforeValidator(_whole)

# A ceiling of the contract, far above what a server allows; its settings say how much that is.
Texts = Annotated[list[str], Field(min_length=1, max_length=10_000, fail_fast=True)]


class EncodedImage(Request):
    """A picture in the request itself."""

    b64: str = Field(
        description="The encoded picture (JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF, PPM) in base64.",
        examples=[EXAMPLE_IMAGE.partition(",")[2]],
    )


ImageField = EncodedImage | Annotated[str, StringConstraints(min_length=1)]


class UrlImage(Request):
    """A picture that the server fetches, if its settings allow that host."""

    url: str = Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="Its https or http address.",
        examples=["https://images.example.org/cat.jpg"],
    )


def _image_kind(image: object) -> str:
    by_url = isinstance(image, UrlImage) or (isinstance(image, dict) and "url" in image)
    return "by-url" if by_url else "in-body"


# Told apart beforehand, so that an error is about the one that was meant.
AnyImage = Annotated[
    Annotated[ImageField, Tag("in-body")] | Annotated[UrlImage, Tag("by-url")],
    Discriminator(_image_kind),
]


def component_schemas(model: type[BaseModel], reference_template: str) -> dict[str, Any]:
    """The JSON schemas of a model, and of all that it refers to, by name."""
    schema = model.model_json_schema(ref_template=reference_template)
    definitions: dict[str, Any] = schema.pop("$defs", {})
    return {**definitions, model.__name__: schema}
