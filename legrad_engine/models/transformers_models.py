"""Models of Hugging Face ``transformers``, from a folder or from the hub.

Their weights are converted to modules of open_clip and timm, whose families explain them. No model
of ``transformers`` is built, and no code of a repository is run.
"""

import logging
from typing import Any

import torch
from torch import nn

from legrad_engine.errors import UnknownModelError
from legrad_engine.models import checkpoints
from legrad_engine.models.config_files import has_independent_classes
from legrad_engine.models.hugging_face.conversion import sides
from legrad_engine.models.hugging_face.files import ModelFiles, repository_of, require_package
from legrad_engine.models.hugging_face.image_processor import read_preprocessing
from legrad_engine.models.hugging_face.registry import ModelClass, Size
from legrad_engine.models.hugging_face.tokenizer import SavedTokenizer
from legrad_engine.models.image_model import ImageModel
from legrad_engine.models.loaded import LoadedModel
from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.schemes import transformers_folder

_logger = logging.getLogger(__name__)


def check(reference: ModelReference) -> None:
    """Refuse a model that is certain to fail, before any download, building or reading of weights.

    Args:
        reference: ``transformers:FOLDER``, or ``transformers:ORG/REPO`` with ``@REVISION`` or
            without.

    Raises:
        UnknownModelError: no such folder, or an impossible name.
        ModelLoadError: a damaged config, no weights, or a missing package.
        UnsupportedModelError: the model's class is not supported.
    """
    require_package(reference.title)
    if reference.pretrained is not None:
        raise UnknownModelError(
            f"{reference.title} includes its weights: leave out {reference.pretrained!r}.",
            field="model",
        )
    if transformers_folder(reference.name) is None:
        repository_of(reference.name)
        return
    files = ModelFiles.of(reference.name)
    files.config()
    files.find_weights()


def load(reference: ModelReference) -> LoadedModel:
    """Load a model with its weights in float32 on the CPU.

    Raises:
        UnknownModelError, ModelLoadError, UnsupportedModelError: see :func:`check`; or the weights
            do not fit.
    """
    files = ModelFiles.of(reference.name)
    model_class, config = files.config()
    class_name = config.architectures[0]
    preprocessing, size = read_preprocessing(files.folder, model_class, class_name)
    model = model_class.build(config, _input_size(reference, model_class, config, size))
    path = files.find_weights()[0]
    weights = model_class.convert(files.weights(), config)
    checkpoints.check_real_numbers(weights, model.state_dict())
    try:
        model.load_state_dict(weights)
    except Exception as error:
        raise checkpoints.misfit(path, error) from error
    tokenizer = None
    if model_class.has_text:
        text = config.text_config
        tokenizer = SavedTokenizer(files.folder, text.max_position_embeddings, text.vocab_size)
    else:
        _describe(model, config, preprocessing)
        model = ImageModel(model, multi_label=has_independent_classes(config.to_dict()))
    return LoadedModel(
        name=reference.title, model=model, tokenizer=tokenizer, preprocessing=preprocessing
    )


def without_values(name: str) -> nn.Module | None:
    """Build the model of a folder on torch's meta device, to measure it; None for the hub."""
    if transformers_folder(name) is None:
        return None
    model_class, config = ModelFiles.of(name).config()
    with torch.device("meta"):
        return model_class.build(config, model_class.own_size(config))


def _input_size(
    reference: ModelReference, model_class: ModelClass, config: Any, size: Size | None
) -> Size:
    """Decide the size of the model's input, where its config and image processor may differ."""
    own = model_class.own_size(config)
    if size is None or size == own:
        return own
    if model_class.takes_any_size:
        patch = sides(getattr(config, "vision_config", config).patch_size)
        rows, columns = (max(each // of, 1) for each, of in zip(size, patch, strict=True))
        return rows * patch[0], columns * patch[1]
    _logger.warning(
        "The image processor of %s makes inputs of %s x %s pixels (height x width), but the model "
        "was trained at %s x %s, which is used",
        *(reference.title, *size, *own),
    )
    return own


def _describe(model: Any, config: Any, preprocessing: Preprocessing) -> None:
    """Give a timm model the labels and numbers that timm's own models have."""
    count = getattr(model, "num_classes", 0)
    model.pretrained_cfg = {
        "input_size": (3, *model.patch_embed.img_size),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
        "num_classes": count,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "label_names": [str(config.id2label[index]) for index in range(count)],
    }
