"""Base classes and types shared by the schemas of the contract."""

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

LONGEST_URL = 4096

# Two red pixels, short enough to read in the documentation.
EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGP4z8AARAwQAAYG"
    "AP8FBAEAKlqSAAAAAElFTkSuQmCC"
)


class Contract(BaseModel):
    """Base of all request and response bodies."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Request(Contract):
    """Base of all request bodies: strict types, no conversion."""

    model_config = ConfigDict(strict=True)


def one_of(*names: str) -> dict[str, JsonValue]:
    """Return a JSON schema that requires exactly one of these fields, and not null.

    For ``json_schema_extra``.
    """
    return {"oneOf": [_given(name) for name in names]}


def any_of(*names: str) -> dict[str, JsonValue]:
    """Return a JSON schema that requires at least one of these fields, and not null.

    For ``json_schema_extra``.
    """
    return {"anyOf": [_given(name) for name in names]}


def _given(name: str) -> JsonValue:
    anything_but_null = ["array", "boolean", "number", "object", "string"]
    return {"required": [name], "properties": {name: {"type": [*anything_but_null]}}}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one kind of number, so 2.0 is accepted as an integer like 2. It must stand after the
# bounds of the integer in an annotation, or the generated schema loses them.
WHOLE = BeforeValidator(_whole)

# An upper bound of the contract, far above the servers' own limits, which are settings.
Texts = Annotated[list[str], Field(min_length=1, max_length=10_000, fail_fast=True)]


class EncodedImage(Request):
    """An image in the request itself."""

    b64: str = Field(
        description="The encoded image (JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP, TIFF, PPM) in "
        "base64.",
        examples=[EXAMPLE_IMAGE.partition(",")[2]],
    )


ImageField = EncodedImage | Annotated[str, StringConstraints(min_length=1)]


class UrlImage(Request):
    """An image that the server fetches, if its settings allow the host."""

    url: str = Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="The image's `https` or `http` URL.",
        examples=["https://images.example.org/cat.jpg"],
    )


def _image_kind(image: object) -> str:
    by_url = isinstance(image, UrlImage) or (isinstance(image, dict) and "url" in image)
    return "by-url" if by_url else "in-body"


# The kind is told apart before validation, so that errors refer to the intended kind.
AnyImage = Annotated[
    Annotated[ImageField, Tag("in-body")] | Annotated[UrlImage, Tag("by-url")],
    Discriminator(_image_kind),
]


def component_schemas(model: type[BaseModel], reference_template: str) -> dict[str, Any]:
    """Return the JSON schemas of a model and of the models it refers to, by name."""
    schema = model.model_json_schema(ref_template=reference_template)
    definitions: dict[str, Any] = schema.pop("$defs", {})
    return {**definitions, model.__name__: schema}
