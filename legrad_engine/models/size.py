"""Size of a model's weights in memory, computed without reading them."""

import logging
from functools import lru_cache

import timm
import torch
from torch import nn

from legrad_engine.devices import resolve_dtype
from legrad_engine.models import bcos_models, openclip_models, transformers_models
from legrad_engine.models.identity import Stamps, file_stamps
from legrad_engine.models.loading import STARTER_FOLDER
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.remote_weights import local_path
from legrad_engine.models.schemes import BCOS, OPENCLIP_HUB, STARTER, TIMM, TIMM_HUB, TRANSFORMERS

_logger = logging.getLogger(__name__)


def weights_bytes(
    reference: ModelReference, dtype: str | torch.dtype = torch.float32
) -> int | None:
    """Compute the size of a model's parameters and buffers once it is loaded.

    The architecture is built on torch's meta device, which has shapes but no values, without
    downloads and without reading a checkpoint. If that is impossible (a config or a text tower on a
    hub), the size of a local checkpoint file is used.

    Args:
        reference: the model.
        dtype: see :func:`legrad_engine.devices.resolve_dtype`.

    Returns:
        Bytes; None if the size is unknown before the model is loaded.

    Raises:
        InvalidOptionError: unknown dtype.
    """
    return _weights_bytes(reference, resolve_dtype(dtype), file_stamps(reference))


@lru_cache(maxsize=256)
def _weights_bytes(
    reference: ModelReference,
    precision: torch.dtype,
    stamps: Stamps,  # noqa: ARG001 # A file that was overwritten is another key.
) -> int | None:
    try:
        model = _build_without_values(reference.name)
    except Exception as error:
        # The loader reports errors of the model.
        _logger.debug("%s cannot be sized by its architecture: %s", reference.name, error)
        model = None
    if model is not None:
        model = model.to(precision)
        return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    checkpoint = None if reference.pretrained is None else local_path(reference.pretrained)
    return checkpoint.stat().st_size if checkpoint is not None and checkpoint.is_file() else None


def _build_without_values(name: str) -> nn.Module | None:
    if name.startswith((OPENCLIP_HUB, TIMM_HUB)):
        return None
    if name.startswith(TRANSFORMERS):
        return transformers_models.without_values(name)
    if name.startswith(BCOS):
        return bcos_models.without_values(name)
    if name.startswith(TIMM):
        with torch.device("meta"):
            visual: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=False)
        return visual
    path = str(STARTER_FOLDER / "starter.json") if name == STARTER else name
    config = openclip_models.config_of(path).model
    # The configs of such towers are on a hub.
    trunk = config["vision_cfg"].get("timm_model_name") or ""
    if config["text_cfg"].get("hf_model_name") or trunk.startswith(OPENCLIP_HUB):
        return None
    with torch.device("meta"):
        return openclip_models.build(config)
