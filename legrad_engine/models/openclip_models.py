"""open_clip models from a config and a checkpoint: local, pretrained or on the hub.

open_clip's own factory is not used, only its parts: it accepts damaged configs, gives random
weights when a download fails, and does not build timm towers at another input size.
"""

import importlib.util
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import open_clip
import timm.models
from torch import nn

from legrad_engine.errors import (
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
    in_one_line,
)
from legrad_engine.families import refusal
from legrad_engine.models import checkpoints
from legrad_engine.models.config_files import folder_with, read_json, refuse_own_code
from legrad_engine.models.foreign import refused_name
from legrad_engine.models.hub import Repository, safer_first
from legrad_engine.models.loaded import LoadedModel
from legrad_engine.models.openclip_facts import (
    fitting_architectures,
    warn_of_activation,
    with_own_context,
)
from legrad_engine.models.openclip_preprocessing import (
    of_architecture,
    of_config,
    of_tag,
)
from legrad_engine.models.openclip_tokenizers import tokenizer_of
from legrad_engine.models.openclip_weights import fill, settle
from legrad_engine.models.preprocessing import Preprocessing
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.remote_weights import fetched, is_there
from legrad_engine.models.schemes import (
    OPENCLIP_FOLDER,
    OPENCLIP_HUB,
    OPENCLIP_WEIGHT_SUFFIXES,
)

CONFIG_FILE = "open_clip_config.json"

_PICKLED_WEIGHTS = "open_clip_pytorch_model.bin"
_SAFE_WEIGHTS = "open_clip_model.safetensors"
# open_clip's order.
_PREFERRED_WEIGHTS = (
    _SAFE_WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    _PICKLED_WEIGHTS,
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_REQUIRED = ("embed_dim", "vision_cfg", "text_cfg")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Config of an open_clip model.

    Attributes:
        model: the model config, as in open_clip's ``model_configs``.
        preprocess: overrides of open_clip's ``PreprocessCfg``.
        tokenizer_folder: folder of a Hugging Face tokenizer's files, if they are beside the config.
    """

    model: dict[str, Any]
    preprocess: dict[str, Any] = field(default_factory=dict)
    tokenizer_folder: Path | None = None

    @property
    def needs_transformers(self) -> bool:
        """Whether the text half comes from the ``transformers`` package."""
        text = self.model["text_cfg"]
        return bool(text.get("hf_model_name") or text.get("hf_tokenizer_name"))


def check(reference: ModelReference) -> None:
    """Refuse a model that is certain to fail, before any download, building or reading.

    Args:
        reference: an open_clip architecture or the path of a JSON config, with a tag or the path of
            a checkpoint (and then the tag of its origin), or with None for random weights;
            ``hf-hub:ORG/REPO`` or ``local-dir:FOLDER``.

    Raises:
        UnknownModelError: no such architecture, tag, config or folder.
        ModelLoadError: no such checkpoint, an invalid config, or a missing package.
        UnsupportedModelError: the architecture cannot be explained.
    """
    name, pretrained = reference.name, reference.pretrained
    if name.startswith((OPENCLIP_HUB, OPENCLIP_FOLDER)) and pretrained is not None:
        raise UnknownModelError(
            f"{name} includes its weights: leave out {pretrained!r}.", field="model"
        )
    if name.startswith(OPENCLIP_HUB):
        Repository(name.removeprefix(OPENCLIP_HUB))
        return
    _check_spelling(reference)
    config = config_of(name)
    _check_architecture(name, config)
    _check_packages(name, config)
    if name.startswith(OPENCLIP_FOLDER):
        _weights_in(name)
    elif pretrained is not None:
        _check_weights(name, pretrained)
    if reference.origin is not None and not open_clip.get_pretrained_cfg(name, reference.origin):
        raise _unknown_tag(name, reference.origin)


def config_of(name: str) -> ModelConfig:
    """Read the config of a name.

    Raises:
        UnknownModelError: no such architecture, config or folder, or no such repository.
        ModelLoadError: the config is damaged, or the hub is out of reach.
    """
    if name.startswith(OPENCLIP_HUB):
        return _read_config(Repository(name.removeprefix(OPENCLIP_HUB)).file(CONFIG_FILE))
    if name.startswith(OPENCLIP_FOLDER):
        folder = folder_with(
            CONFIG_FILE,
            Path(name.removeprefix(OPENCLIP_FOLDER)),
            taken="local-dir: takes folders that open_clip saved for the hub, timm:local-dir: "
            "those that timm saved.",
        )
        config = _read_config(folder / CONFIG_FILE)
        return ModelConfig(config.model, config.preprocess, tokenizer_folder=folder)
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise UnknownModelError(f"There is no model config at {name!r}.", field="model")
        return _read_config(Path(name))
    if name not in open_clip.list_models():
        foreign = refused_name(name)
        if foreign is not None:
            raise UnsupportedModelError(f"{name} cannot be explained: {foreign}.", field="model")
        raise UnknownModelError(
            f"open_clip has no architecture {name!r}; `legrad models --all` lists those it has. "
            "Name a config of your own with its ending: CONFIG.json@CHECKPOINT.",
            field="model",
        )
    return ModelConfig(open_clip.get_model_config(name))


def load(reference: ModelReference) -> LoadedModel:
    """Load a model with its weights in float32 on the CPU.

    Raises:
        UnknownModelError, ModelLoadError, UnsupportedModelError: see :func:`check`; or the weights
            do not fit.
    """
    name, pretrained = reference.name, reference.pretrained
    config = config_of(name)
    _check_architecture(name, config)
    _check_packages(name, config)
    licence: str | None = None
    checkpoint: Path | None = None
    record = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    if name.startswith(OPENCLIP_HUB):
        checkpoint = Repository(name.removeprefix(OPENCLIP_HUB)).file(
            _SAFE_WEIGHTS, _PICKLED_WEIGHTS
        )
    elif name.startswith(OPENCLIP_FOLDER):
        checkpoint = _weights_in(name)
    elif record:
        checkpoint, licence = _tagged(record), _licence(record)
    elif pretrained is not None:
        checkpoint = fetched(pretrained)
    weights = None if checkpoint is None else checkpoints.read(checkpoint)
    if weights is not None and pretrained is not None:
        warn_of_activation(reference, config.model, weights)
        if not record:
            config = replace(config, model=with_own_context(reference, config.model, weights))
    model = build(config.model)
    if weights is not None and checkpoint is not None:
        try:
            fill(model, weights)
        except ModelLoadError:
            raise
        except Exception as error:
            alike = [each for each in fitting_architectures(weights) if each != name]
            remedy = f"Its shapes are those of {', '.join(alike[:4])}" if alike else ""
            raise checkpoints.misfit(checkpoint, error, remedy) from error
    settle(model)
    return LoadedModel(
        name=reference.title,
        model=model,
        tokenizer=tokenizer_of(config.model["text_cfg"], config.tokenizer_folder),
        preprocessing=_preprocessing(reference, config),
        licence=licence,
    )


def _preprocessing(reference: ModelReference, config: ModelConfig) -> Preprocessing:
    name, pretrained = reference.name, reference.pretrained
    if name.endswith(".json") or name.startswith((OPENCLIP_HUB, OPENCLIP_FOLDER)):
        return of_config(config.preprocess)
    if reference.origin is not None:
        return of_tag(name, reference.origin)
    if pretrained is not None and open_clip.get_pretrained_cfg(name, pretrained):
        return of_tag(name, pretrained)
    return of_architecture(name)


def build(config: Mapping[str, Any]) -> nn.Module:
    """Build the model of a config with random weights, as open_clip's factory does.

    Raises:
        ModelLoadError: the config is not that of a model.
    """
    settings = deepcopy(dict(config))
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    is_hugging_face = "hf_model_name" in text
    # Weights come only from the checkpoint of the whole model, never from a hub for one tower.
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
        vision["timm_model_name"] = _fetched_trunk(vision["timm_model_name"])
    if is_hugging_face:
        text["hf_model_pretrained"] = False
        if not Path(text["hf_model_name"]).is_dir():
            text["hf_model_name"] = str(
                Repository(text["hf_model_name"]).file("config.json").parent
            )
        own_config = Path(text["hf_model_name"]) / "config.json"
        refuse_own_code(read_json(own_config), own_config)
    if settings.pop("custom_text", False) or is_hugging_face:
        kind = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    else:
        kind = open_clip.CLIP
    try:
        model: nn.Module = kind(**settings)
    except Exception as error:
        raise ModelLoadError(
            f"open_clip cannot build a model of this config: {in_one_line(error)}.",
            field="model",
        ) from error
    return model


def _read_config(path: Path) -> ModelConfig:
    settings = read_json(path)
    model, preprocess = settings, {}
    if isinstance(settings, dict) and "model_cfg" in settings:
        model, preprocess = settings["model_cfg"], settings.get("preprocess_cfg", {})
    if not (
        isinstance(model, dict)
        and isinstance(preprocess, dict)
        and set(_REQUIRED) <= set(model)
        and isinstance(model["vision_cfg"], dict)
        and isinstance(model["text_cfg"], dict)
    ):
        raise ModelLoadError(
            f"The model config {str(path)!r} must be an object with embed_dim, vision_cfg and "
            "text_cfg, as in open_clip's model_configs, or hold one under model_cfg.",
            field="model",
        )
    return ModelConfig(model, preprocess)


def _check_spelling(reference: ModelReference) -> None:
    """Refuse OpenAI's names, such as ``ViT-B/32`` and ``ViT-L/14@336px``, with open_clip's."""
    name = reference.name
    patch = reference.origin or reference.pretrained or ""
    size = (reference.pretrained or "").removesuffix("px")
    for same in (f"{name}-{patch}-{size}", f"{name}-{patch}"):
        if "openai" in open_clip.list_pretrained_tags_by_model(same):
            raise UnknownModelError(
                f"OpenAI's {name}/{patch} is {same} here: write {same}-quickgelu/openai for its "
                f"own weights, {same}-quickgelu@PATH for weights that were tuned from them, or "
                f"{same}/TAG or {same}@PATH for others.",
                field="model",
            )


def _check_architecture(name: str, config: ModelConfig) -> None:
    why = refusal(config.model)
    if why is not None:
        raise UnsupportedModelError(f"{name} cannot be explained: {why}.", field="model")


def _check_packages(name: str, config: ModelConfig) -> None:
    if config.needs_transformers and importlib.util.find_spec("transformers") is None:
        raise ModelLoadError(
            f"The text half of {name} needs the transformers package: "
            "pip install 'legrad-service[hf]'.",
            field="model",
        )


def _check_weights(name: str, pretrained: str) -> None:
    if open_clip.get_pretrained_cfg(name, pretrained) or is_there(pretrained):
        return
    if name.endswith(".json") or Path(pretrained).suffix or "/" in pretrained:
        raise ModelLoadError(f"There is no checkpoint at {pretrained!r}.", field="model")
    raise _unknown_tag(name, pretrained)


def _unknown_tag(name: str, tag: str) -> UnknownModelError:
    return UnknownModelError(
        f"{name} has no pretrained tag {tag!r}." + tags_of(name), field="model"
    )


def tags_of(architecture: str) -> str:
    """Make a sentence of the pretrained tags of an architecture; empty if it has none."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    return f" open_clip's tags for {architecture}: {', '.join(tags)}." if tags else ""


def repository_of(name: str, tag: str) -> str:
    """Return the repository of a pretrained tag on the model hub; empty without such a tag."""
    record: Mapping[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    return str(record["hf_hub"]).rpartition("/")[0] if record else ""


def _weights_in(name: str) -> Path:
    return checkpoints.find(
        Path(name.removeprefix(OPENCLIP_FOLDER)), _PREFERRED_WEIGHTS, OPENCLIP_WEIGHT_SUFFIXES
    )


def _tagged(record: Mapping[str, Any]) -> Path:
    repository, _, file = record["hf_hub"].rpartition("/")
    file = file or _PICKLED_WEIGHTS
    return Repository(repository).file(
        *safer_first(file, whole=_PICKLED_WEIGHTS, safe=_SAFE_WEIGHTS)
    )


def _licence(record: Mapping[str, Any]) -> str | None:
    # open_clip's records have no licence; timm has records of the same repositories.
    same = timm.models.get_pretrained_cfg(record["hf_hub"].strip("/").removeprefix("timm/"))
    licence: str | None = None if same is None else same.license
    return licence


def _fetched_trunk(name: str) -> str:
    """Return the name of a timm tower; fetch its config into a folder first if it is on the hub."""
    if not str(name).startswith(OPENCLIP_HUB):
        return name
    repository, _, revision = name.removeprefix(OPENCLIP_HUB).partition("@")
    folder = Repository(repository, revision or None).file("config.json").parent
    return f"{OPENCLIP_FOLDER}{folder}"
