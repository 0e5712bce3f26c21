"""Reading of checkpoints as plain tensors, and errors for weights that do not fit.

No function of this module, and no caller of it, unpickles code.
"""

import argparse
import pickle  # nosec B403 # for the type of its error; nothing is unpickled here
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch

from legrad_engine.errors import ModelLoadError, in_one_line

# Keys under which training programs store the weights. Averaged (EMA) weights are preferred when
# present, as in timm.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_KEYS_NAMED = 4
_LONGEST_REASON = 100
_NUMPY_SUFFIXES = (".npz", ".npy")

_MISSING = re.compile(r"Missing key\(s\) in state_dict: (.*?)\. *$", re.MULTILINE)
_UNEXPECTED = re.compile(r"Unexpected key\(s\) in state_dict: (.*?)\. *$", re.MULTILINE)
_MISSHAPEN = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)"
)
_NOT_COPIED = re.compile(r'While copying the parameter named "(.*?)"')

# torch's list of globals that a checkpoint may name is shared by all threads, and timm changes it
# while it reads.
READING = threading.Lock()


def read(path: Path) -> dict[str, Any]:
    """Read the weights in a checkpoint, by parameter name.

    Wrappers of training programs (``{"state_dict": ...}``, ``{"model": ...}``) and the prefixes of
    wrapped modules (``module.``, ``_orig_mod.``) are removed.

    Args:
        path: a safetensors file, or a file that ``torch.save`` wrote.

    Raises:
        ModelLoadError: the file is damaged, not a checkpoint, or holds more than plain tensors.
    """
    if path.suffix in _NUMPY_SUFFIXES:
        raise ModelLoadError(
            f"{str(path)!r} is a NumPy archive: convert it to safetensors.", field="model"
        )
    try:
        if path.suffix == ".safetensors":
            found = safetensors.torch.load_file(path)
        else:
            # timm's training program stores its arguments beside the weights, in a plain Namespace.
            with READING, torch.serialization.safe_globals([argparse.Namespace]):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error
    if isinstance(found, Mapping):
        wrapper = next((name for name in _WRAPPERS if found.get(name) is not None), None)
        found = found if wrapper is None else found[wrapper]
    if not isinstance(found, Mapping) or not found:
        raise ModelLoadError(
            f"{str(path)!r} holds no weights: expected tensors by name, alone or under one of "
            f"{', '.join(_WRAPPERS)}.",
            field="model",
        )
    cleaned: dict[str, Any] = timm.models.clean_state_dict(
        {str(name): value for name, value in found.items()}
    )
    return cleaned


def find(folder: Path, preferred: Sequence[str], suffixes: Sequence[str]) -> Path:
    """Find the checkpoint of a folder: preferred names first, then by suffix, then by name.

    Raises:
        ModelLoadError: the folder holds no checkpoint.
    """
    usual = [folder / name for name in preferred if (folder / name).is_file()]
    others = [path for suffix in suffixes for path in sorted(folder.glob(f"*{suffix}"))]
    for path in [*usual, *others]:
        return path
    raise ModelLoadError(
        f"The folder {str(folder)!r} holds no checkpoint: expected {preferred[0]}, or a file that "
        f"ends in {', '.join(suffixes)}.",
        field="model",
    )


def misfit(path: Path, error: Exception) -> ModelLoadError:
    """Make the error for a checkpoint whose weights do not fit the model.

    Args:
        path: the checkpoint.
        error: the error of ``load_state_dict`` or of a conversion before it.
    """
    text = str(error)
    shapes = _MISSHAPEN.findall(text)
    parts = [
        *_named("missing", [key for keys in _MISSING.findall(text) for key in _quoted(keys)]),
        *_named("unexpected", [key for keys in _UNEXPECTED.findall(text) for key in _quoted(keys)]),
        *_named(
            "of another shape",
            [f"{key} {theirs} where the config makes it {ours}" for key, theirs, ours in shapes],
        ),
    ]
    parts += _named("that cannot be copied", _NOT_COPIED.findall(text))
    reason = "; ".join(parts) or in_one_line(error)
    return ModelLoadError(
        f"The checkpoint {str(path)!r} does not fit the model's config: {reason}.", field="model"
    )


def _named(problem: str, keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - _KEYS_NAMED} more" if len(keys) > _KEYS_NAMED else ""
    return [f"{len(keys)} {problem} ({', '.join(keys[:_KEYS_NAMED])}{more})"]


def _quoted(keys: str) -> list[str]:
    return re.findall(r'"(.*?)"', keys)


def _unreadable(path: Path, error: Exception) -> ModelLoadError:
    forbidden = _forbidden(path, error)
    if forbidden is not None:
        return ModelLoadError(
            f"{str(path)!r} holds more than plain tensors{forbidden}. Code is never unpickled: "
            "if you trust the checkpoint, convert it to safetensors.",
            field="model",
        )
    # torch's message about an unreadable pickle is long and advises to load it unsafely.
    message = (
        None if isinstance(error, pickle.UnpicklingError) else in_one_line(error, _LONGEST_REASON)
    )
    reason = f" ({message})" if message else ""
    return ModelLoadError(
        f"{str(path)!r} is damaged, truncated, or not a checkpoint{reason}: give a safetensors "
        "file, or plain tensors that torch.save wrote.",
        field="model",
    )


def _forbidden(path: Path, error: Exception) -> str | None:
    """Name a pickle's contents beyond tensors, as a clause; None for plain tensors."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        names = []
    names = [name for name in names if name != "argparse.Namespace"]
    if names:
        return f" ({', '.join(names[:_KEYS_NAMED])})"
    if "TorchScript" in str(error):
        return " (it is a TorchScript program)"
    refused = isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error)
    return "" if refused else None
