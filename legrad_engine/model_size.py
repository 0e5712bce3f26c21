"""How much memory a model's weights will take, known before they are read."""

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from legrad_engine.devices import resolve_dtype
from legrad_engine.models import STARTER, STARTER_FOLDER, ModelReference

_logger = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def weights_bytes(
    reference: ModelReference, dtype: str | torch.dtype = torch.float32
) -> int | None:
    """The size of a model's parameters and buffers once it is loaded.

    The architecture is built on torch's meta device, which has shapes but no values: nothing is
    downloaded and no checkpoint is read. Where that cannot be done (a config or a text tower that
    only a hub knows), the size of a local checkpoint file stands in.

    Args:
        reference: the model.
        dtype: see :func:`legrad_engine.devices.resolve_dtype`.

    Returns:
        Bytes, or None where they cannot be known before the model is loaded.

    Raises:
        InvalidOptionError: unknown dtype.
    """
    precision = resolve_dtype(dtype)
    try:
        model = _build_without_values(reference.name)
    except Exception as error:
        # Whatever is wrong with the model is for the loader to say.
        _logger.debug("%s cannot be sized by its architecture: %s", reference.name, error)
        model = None
    if model is not None:
        model = model.to(precision)
        return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    if reference.pretrained is not None and Path(reference.pretrained).is_file():
        return Path(reference.pretrained).stat().st_size
    return None


def _build_without_values(name: str) -> nn.Module | None:
    config = _config(name)
    # The config of such a text tower is on a hub.
    if config is None or config["text_cfg"].get("hf_model_name"):
        return None
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    # The same choice as open_clip.create_model makes.
    kind = CLIP
    if config.pop("custom_text", False):
        kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP
    with torch.device("meta"):
        model: nn.Module = kind(**config)
    return model


def _config(name: str) -> dict[str, Any] | None:
    path = STARTER_FOLDER / "starter.json" if name == STARTER else Path(name)
    config: dict[str, Any] | None
    if path.suffix == ".json":
        config = json.loads(path.read_bytes())
    else:
        # Names with a scheme, such as "hf-hub:", would be looked up on the network.
        config = None if ":" in name else open_clip.get_model_config(name)
    return config
