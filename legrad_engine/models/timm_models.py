"""Plain timm models, by name, by checkpoint, from a folder or from the hub."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import timm
import timm.models
from timm.models import PretrainedCfg
from torch import Tensor

from legrad_engine.errors import (
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
    in_one_line,
)
from legrad_engine.families import timm_refusal
from legrad_engine.models import checkpoints, self_supervised, timm_preprocessing
from legrad_engine.models.config_files import folder_with, has_independent_classes, read_json
from legrad_engine.models.foreign import refused_name
from legrad_engine.models.hub import Repository, safer_first
from legrad_engine.models.image_model import ImageModel
from legrad_engine.models.loaded import LoadedModel
from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.remote_weights import fetched, is_there
from legrad_engine.models.schemes import TIMM, TIMM_FOLDER, TIMM_HUB

CONFIG_FILE = "config.json"


_PICKLED_WEIGHTS = "pytorch_model.bin"
_SAFE_WEIGHTS = "model.safetensors"
# timm's order.
_PREFERRED_WEIGHTS = (
    _SAFE_WEIGHTS,
    _PICKLED_WEIGHTS,
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".bin", ".pt")


_OTHER_SIZE = (
    "To keep the input size of the weights, put the checkpoint into a folder with a config.json "
    'such as {"architecture": "NAME", "num_classes": 3, "model_args": {"img_size": [96, 64]}, '
    '"pretrained_cfg": {}}, and give timm:local-dir:FOLDER'
)

_logger = logging.getLogger(__name__)


class _Shared(Tensor):
    """Tensor that copies of timm's record share, where they would copy its values."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


def check(reference: ModelReference) -> None:
    """Refuse a model that is certain to fail, before any download, building or reading.

    Args:
        reference: ``timm:NAME`` or ``timm:NAME.TAG``, with the path of a checkpoint or with None
            for the weights of the name; ``timm:hf-hub:ORG/REPO`` with ``@REVISION`` or without; or
            ``timm:local-dir:FOLDER``.

    Raises:
        UnknownModelError: no such architecture, tag or folder.
        ModelLoadError: no such checkpoint, or no weights to download.
        UnsupportedModelError: the architecture cannot be explained.
    """
    name, pretrained = reference.name, reference.pretrained
    if name.startswith((TIMM_HUB, TIMM_FOLDER)):
        if pretrained is not None:
            raise UnknownModelError(
                f"{name} includes its weights: leave out {pretrained!r}.", field="model"
            )
        if name.startswith(TIMM_HUB):
            _repository(name)
        else:
            folder = _folder(name)
            _read_config(folder / CONFIG_FILE)
            checkpoints.find(folder, _PREFERRED_WEIGHTS, _WEIGHT_SUFFIXES)
        return
    record = _record(name)
    if pretrained is not None:
        if not is_there(pretrained):
            raise ModelLoadError(f"There is no checkpoint at {pretrained!r}.", field="model")
    elif not record.hf_hub_id:
        raise ModelLoadError(_without_weights(name, record), field="model")


def load(reference: ModelReference) -> LoadedModel:
    """Load a timm model with its weights in float32 on the CPU.

    timm converts and resamples the weights itself. The number of classes of a local checkpoint may
    differ from the architecture's default, and may be 0.

    Raises:
        UnknownModelError, ModelLoadError: see :func:`check`; or the weights do not fit.
        UnsupportedModelError: the model's input is not a picture of three channels.
    """
    name, pretrained = reference.name, reference.pretrained
    overlay: dict[str, Any] = {}
    options: dict[str, Any] = {}
    config: Mapping[str, Any] | None = None
    if name.startswith(TIMM_FOLDER):
        folder = _folder(name)
        config = _read_config(folder / CONFIG_FILE)
        source = f"local-dir:{folder}"
        checkpoint = checkpoints.find(folder, _PREFERRED_WEIGHTS, _WEIGHT_SUFFIXES)
    elif name.startswith(TIMM_HUB):
        repository = _repository(name)
        path = repository.file(CONFIG_FILE)
        config = _read_config(path)
        source = f"local-dir:{path.parent}"
        checkpoint = repository.file(_SAFE_WEIGHTS, _PICKLED_WEIGHTS)
    else:
        source, record = name.removeprefix(TIMM), _record(name)
        checkpoint = _fetched(name, record) if pretrained is None else fetched(pretrained)
    weights = checkpoints.read(checkpoint)
    if pretrained is not None:
        weights = self_supervised.encoder_of(weights, repr(pretrained))
        classes = _classes(weights, record)
        overlay, options = {"num_classes": classes}, {"num_classes": classes}
        if self_supervised.pools_by_average(weights):
            options["global_pool"] = "avg"
    overlay |= {
        "source": "",
        "state_dict": {key: value.as_subclass(_Shared) for key, value in weights.items()},
    }
    try:
        model: Any = timm.create_model(
            source, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except Exception as error:
        if "state_dict" in str(error):
            remedy = _OTHER_SIZE if checkpoints.misfits_only_in(error, "pos_embed") else ""
            raise checkpoints.misfit(checkpoint, error, remedy) from error
        raise ModelLoadError(
            f"timm cannot build a model of {name}: {in_one_line(error)}.", field="model"
        ) from error
    del model.pretrained_cfg["state_dict"]
    own, given = getattr(model, "pos_embed", None), weights.get("pos_embed")
    if (
        pretrained is not None
        and own is not None
        and given is not None
        and own.shape != given.shape
    ):
        _logger.warning(
            "%s: the checkpoint's position embeddings are for %d tokens and are resampled to %d. "
            "%s",
            *(reference.title, given.shape[1], own.shape[1], _OTHER_SIZE),
        )
    return LoadedModel(
        name=reference.title,
        model=ImageModel(model, multi_label=has_independent_classes(config)),
        tokenizer=None,
        preprocessing=_preprocessing(reference, model, config),
        # The record's licence is that of timm's own weights.
        licence=model.pretrained_cfg.get("license") if pretrained is None else None,
    )


def _preprocessing(
    reference: ModelReference, model: Any, config: Mapping[str, Any] | None
) -> Preprocessing:
    if config is not None:
        return timm_preprocessing.of_config(config, model.pretrained_cfg)
    name, _, tag = reference.name.removeprefix(TIMM).partition(".")
    if reference.pretrained is None or tag:
        return timm_preprocessing.of_tag(name, model.pretrained_cfg)
    return timm_preprocessing.of_architecture(name)


def _record(name: str) -> PretrainedCfg:
    """Look up timm's record of a pretrained model."""
    full = name.removeprefix(TIMM)
    architecture, _, tag = full.partition(".")
    _check_architecture(architecture)
    records = timm.models.get_arch_pretrained_cfgs(architecture)
    if tag and full not in records:
        tags = [record.partition(".")[2] for record in records]
        raise UnknownModelError(
            f"timm's {architecture} has no pretrained tag {tag!r}. timm's tags for it: "
            f"{', '.join(filter(None, tags)) or 'none'}.",
            field="model",
        )
    return timm.models.get_pretrained_cfg(full)


def _without_weights(name: str, record: PretrainedCfg) -> str:
    if record.url:
        return (
            f"The weights of {name} are not on the model hub: download {record.url} and give its "
            f"path, {name}@PATH."
        )
    return f"timm has no weights for {name}: give a checkpoint of your own, {name}@PATH."


def repository_of(name: str) -> str:
    """Return the repository of a pretrained tag on the model hub, with its revision if it has one.

    Raises:
        UnknownModelError: no such architecture or tag.
    """
    return _record(name).hf_hub_id or ""


def _repository(name: str) -> Repository:
    repository, _, revision = name.removeprefix(TIMM_HUB).partition("@")
    return Repository(repository, revision or None)


def _folder(name: str) -> Path:
    return folder_with(
        CONFIG_FILE,
        Path(name.removeprefix(TIMM_FOLDER)),
        taken="timm:local-dir: takes folders that timm saved for the hub, local-dir: those that "
        "open_clip saved.",
    )


def _read_config(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    # Older files have all settings in one object; both forms have the architecture at the top.
    if not isinstance(settings, dict) or not isinstance(settings.get("architecture"), str):
        raise ModelLoadError(
            f"The model config {str(path)!r} must be an object with an architecture, as timm saves "
            "it for the hub.",
            field="model",
        )
    _check_architecture(settings["architecture"])
    return settings


def _check_architecture(name: str) -> None:
    if not timm.is_model(name):
        foreign = refused_name(name)
        if foreign is not None:
            raise UnsupportedModelError(f"{name} cannot be explained: {foreign}.", field="model")
        raise UnknownModelError(
            f"timm has no architecture {name!r}; timm.list_models() lists its architectures.",
            field="model",
        )
    why = timm_refusal(name)
    if why is not None:
        raise UnsupportedModelError(f"timm:{name} cannot be explained: {why}.", field="model")


def _fetched(name: str, record: PretrainedCfg) -> Path:
    if not record.hf_hub_id:
        raise ModelLoadError(_without_weights(name, record), field="model")
    repository, _, revision = record.hf_hub_id.partition("@")
    file = record.hf_hub_filename or _PICKLED_WEIGHTS
    return Repository(repository, revision or None).file(
        *safer_first(file, whole=_PICKLED_WEIGHTS, safe=_SAFE_WEIGHTS)
    )


def _classes(weights: dict[str, Any], record: PretrainedCfg) -> int:
    """Count the classes of a checkpoint's classifier; 0 if it has none."""
    heads = record.classifier or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        weight = weights.get(f"{head}.weight")
        if weight is not None:
            return len(weight)
    return 0
