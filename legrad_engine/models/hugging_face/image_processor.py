"""Numbers of an image processor of ``transformers``: normalisation, interpolation and size."""

import logging
import math
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from legrad_engine.errors import ModelLoadError, in_one_line
from legrad_engine.models.config_files import read_json
from legrad_engine.models.hugging_face.registry import ModelClass, Size
from legrad_engine.models.preprocessing import Preprocessing

_FILE = "preprocessor_config.json"
# Newer versions save the image processor and the tokenizer's settings in one file.
_JOINT_FILE = "processor_config.json"
_BRIGHTEST = 255

_logger = logging.getLogger(__name__)


def read_preprocessing(
    folder: Path, model_class: ModelClass, class_name: str
) -> tuple[Preprocessing, Size | None]:
    """Read the image processor that is saved beside a model.

    Without one, the numbers of the published models of the class are used, as a guess.

    Args:
        folder: folder of the model's files.
        model_class: the model's class.
        class_name: its name.

    Returns:
        The preprocessing, and the (height, width) in pixels of the input that it makes; None if it
        does not say.

    Raises:
        ModelLoadError: the file is damaged, or is not that of an image processor.
    """
    if not _has_image_processor(folder):
        settings = {"mean": model_class.usual_mean, "std": model_class.usual_std}
        source = f"the published models of {class_name}, because {_FILE} is missing"
        return Preprocessing.of(settings, source=source, is_guess=True), None
    try:
        processor = import_module("transformers").AutoImageProcessor.from_pretrained(
            str(folder), trust_remote_code=False
        )
        settings = _normalization(processor) | {
            "interpolation": Image.Resampling(int(processor.resample)).name.lower(),
            "resize_mode": _resize_mode(processor),
        }
        size = _size(processor)
    except Exception as error:
        raise ModelLoadError(
            f"The image processor in {str(folder)!r} cannot be read: {in_one_line(error)}.",
            field="model",
        ) from error
    return Preprocessing.of(settings, source="the model's image processor"), size


def _has_image_processor(folder: Path) -> bool:
    if (folder / _FILE).is_file():
        return True
    joint = folder / _JOINT_FILE
    settings = read_json(joint) if joint.is_file() else {}
    return isinstance(settings, dict) and "image_processor" in settings


def _normalization(processor: Any) -> dict[str, Any]:
    """Return mean and deviation for values in 0 to 1, whatever the processor is given."""
    mean, std = [0.0] * 3, [1.0] * 3
    if processor.do_normalize:
        mean, std = (_three(values) for values in (processor.image_mean, processor.image_std))
    factor = processor.rescale_factor if processor.do_rescale else 1
    # The processor computes (256 levels * factor - mean) / std.
    scale = 1 / (_BRIGHTEST * factor)
    if not math.isclose(scale, 1, rel_tol=1e-6):
        mean, std = ([value * scale for value in values] for values in (mean, std))
    return {"mean": mean, "std": std}


def _three(values: Any) -> list[float]:
    return [float(values)] * 3 if isinstance(values, (int, float)) else [float(v) for v in values]


def _resize_mode(processor: Any) -> str | None:
    size = _sizes(getattr(processor, "size", None))
    if "shortest_edge" in size:
        return "shortest"
    return "squash" if "height" in size else None


def _size(processor: Any) -> Size | None:
    patches = getattr(processor, "max_num_patches", None)
    if patches:
        side = math.isqrt(patches) * processor.patch_size
        return side, side
    crops = getattr(processor, "do_center_crop", False)
    size = _sizes(getattr(processor, "crop_size" if crops else "size", None))
    if "height" in size:
        return size["height"], size["width"]
    return (size["shortest_edge"],) * 2 if "shortest_edge" in size else None


def _sizes(size: Any) -> dict[str, int]:
    """Return the sizes that are set; processors of different versions hold them differently."""
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {name: int(value) for name, value in dict(size).items() if value is not None}
