"""Bodies of requests, made from a caller's pictures, prompts and options."""

import base64
import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

ImageLike = str | PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, an http(s) address, an encoded picture, a Pillow image, or uint8 pixels: grey
[height, width], RGB [height, width, 3] or RGBA [height, width, 4]."""

Layers = int | Literal["all"] | Sequence[int]


class Options(TypedDict, total=False):
    """Options of a request: the contract's ExplainOptions and OutputOptions.

    The server's defaults apply to those left out.
    """

    method: str
    heads: Literal["mean", "each"]
    layers: Layers | None
    score: Literal["mean", "cls", "pooler"] | None
    size: int | None
    fit: Literal["squash", "pad", "native"]
    templates: str | Sequence[str] | None
    negatives: str | Mapping[str, Any] | None
    cache: bool
    overlay: bool
    colormap: str
    alpha: float
    normalize: Literal["each", "shared", "none"]
    regions_threshold: float | None
    max_side: int
    format: Literal["jpeg", "webp", "png"]
    quality: int
    layers_report: bool
    trust: Literal["free", "quick", "curves"] | None
    counterfactual: Mapping[str, Any] | None


OUTPUT_OPTIONS = frozenset(
    {
        "overlay",
        "colormap",
        "alpha",
        "normalize",
        "regions_threshold",
        "max_side",
        "format",
        "quality",
        "layers_report",
        "trust",
        "counterfactual",
    }
)


def explain_body(
    images: Sequence[ImageLike],
    prompts: Sequence[str] | None,
    targets: Sequence[Mapping[str, Any]] | None,
    model: str | None,
    options: Options,
) -> dict[str, Any]:
    """Return the JSON body of ``POST /explain``, with raw maps (npy) as output.

    Raises:
        TypeError: an image is not an :data:`ImageLike`, or an option does not exist.
        ValueError: an array's shape or dtype is not that of a picture.
        OSError: a file cannot be read.
    """
    unknown = set(options) - set(Options.__annotations__)
    if "heatmap" in unknown:
        raise TypeError(
            "heatmap is no option: the client always asks for the raw maps, which are in `map`."
        )
    if unknown:
        raise TypeError(
            f"There is no option {', '.join(sorted(unknown))}; there are "
            f"{', '.join(Options.__annotations__)}."
        )
    computed = {name: value for name, value in options.items() if name not in OUTPUT_OPTIONS}
    output = {name: value for name, value in options.items() if name in OUTPUT_OPTIONS}
    body: dict[str, Any] = {
        "images": [_image_field(image) for image in images],
        "options": {name: _as_json(value) for name, value in computed.items()},
        "output": {"heatmap": "npy", **output},
    }
    if prompts is not None:
        body["prompts"] = [prompts] if isinstance(prompts, str) else list(prompts)
    if targets is not None:
        body["targets"] = [_target(target) for target in targets]
    if model is not None:
        body["model"] = model
    return body


def _target(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target as JSON: pictures encoded, arrays as base64, and so in the parts of one."""
    made: dict[str, Any] = {}
    for name, value in target.items():
        if name in ("target", "against"):
            made[name] = _target(value)
        elif name == "distractors":
            made[name] = [_target(each) for each in value]
        elif name == "image" and not isinstance(value, (str, Mapping)):
            made[name] = _image_field(value)
        elif name == "embedding" and isinstance(value, np.ndarray):
            values = value.astype("<f4").tobytes()
            made[name] = {"b64": base64.b64encode(values).decode("ascii")}
        else:
            made[name] = value
    return made


def _as_json(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _image_field(image: ImageLike) -> dict[str, str]:
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        return {"url": image}
    return {"b64": base64.b64encode(_encoded(image)).decode("ascii")}


def _encoded(image: ImageLike) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, PathLike)):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (
            image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        ):
            raise ValueError(
                "Pass pixels as uint8 of shape [height, width], [height, width, 3] or "
                f"[height, width, 4], not {image.dtype} of shape {list(image.shape)}."
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        # Saving drops the orientation. Lossless, so that the server gets the same pixels; fast,
        # because the file is sent once.
        ImageOps.exif_transpose(image).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    raise TypeError(
        f"A {type(image).__name__} is not a picture: pass a path, bytes, an image or an array."
    )
