"""Weights inside the containers of training programs, found by rule."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from legrad_engine.errors import ModelLoadError

# Names under which training programs store the weights, the preferred first: averaged (EMA) weights
# as in timm, the teacher of self-distillation as its authors evaluate it.
_WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "model_ema_state_dict",
    "ema_state_dict",
    "params_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "teacher",
    "encoder",
)
# Shared prefixes that are the model's own: open_clip's and timm's converters look for them.
_OWN_PREFIXES = {"visual", "vision_encoder", "beit3", "radio_model"}
# Left by torch.optim.swa_utils.AveragedModel beside the weights.
_COUNTER = "n_averaged"
_DEEPEST = 4


def unwrap(found: object, where: str) -> dict[str, Tensor]:
    """Find the weights in the content of a checkpoint.

    Containers are opened by the names that training programs give them, else where a container
    holds exactly one dictionary of tensors. A prefix that all names share (``module.``,
    ``_orig_mod.``, ``model.``) is removed, and so are entries that are not tensors.

    Args:
        found: the content.
        where: the checkpoint, for errors.

    Raises:
        ModelLoadError: it holds no weights, or several sets of them.
    """
    for _ in range(_DEEPEST):
        inner = _inner(found, where)
        if inner is None:
            break
        found = inner
    tensors = _tensors(found)
    if not tensors:
        raise ModelLoadError(
            f"{where} holds no weights: expected tensors by name, as state_dict() returns them, "
            "alone or in a dictionary.",
            field="model",
        )
    return _without_prefixes(tensors)


def _inner(found: object, where: str) -> Mapping[Any, Any] | None:
    """Return the dictionary inside a container that leads to the weights; None for weights."""
    if not isinstance(found, Mapping):
        return None
    for name in _WRAPPERS:
        if _leads_to_tensors(found.get(name)):
            inner: Mapping[Any, Any] = found[name]
            return inner
    if _tensors(found):
        return None
    sets = [name for name, value in found.items() if _tensors(value)]
    if len(sets) > 1:
        raise ModelLoadError(
            f"{where} holds several sets of weights ({', '.join(map(str, sets[:4]))}): save the "
            "one to explain alone.",
            field="model",
        )
    return found[sets[0]] if sets else None


def _leads_to_tensors(value: object, depth: int = _DEEPEST) -> bool:
    if not isinstance(value, Mapping) or not depth:
        return False
    return bool(_tensors(value)) or any(
        _leads_to_tensors(each, depth - 1) for each in value.values()
    )


def _tensors(value: object) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {
        name: each
        for name, each in value.items()
        if isinstance(name, str) and isinstance(each, Tensor)
    }


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        names = {name for name in tensors if name.rpartition(".")[2] != _COUNTER}
        prefixes = {name.partition(".")[0] for name in names}
        has_prefix = all("." in name for name in names)
        if not has_prefix or len(prefixes) != 1 or prefixes & _OWN_PREFIXES:
            return {name: tensor for name, tensor in tensors.items() if name in names}
        tensors = {name.partition(".")[2]: tensors[name] for name in names}
