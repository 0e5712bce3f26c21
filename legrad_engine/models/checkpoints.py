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
import torch
from torch import Tensor

from legrad_engine.errors import ModelLoadError, UnsupportedModelError, in_one_line
from legrad_engine.models.foreign import refused_weights
from legrad_engine.models.unwrapping import unwrap

ADAPTER_REMEDY = "It holds an adapter: merge it into its model (merge_and_unload) and save that"
"""Sentence for checkpoints and folders of PEFT, without a full stop."""

_KEYS_NAMED = 4
_LONGEST_REASON = 100
_NUMPY_SUFFIXES = (".npz", ".npy")

_MISSING = re.compile(r"Missing key\(s\) in state_dict: (.*?)\. *$", re.MULTILINE)
_UNEXPECTED = re.compile(r"Unexpected key\(s\) in state_dict: (.*?)\. *$", re.MULTILINE)
_MISSHAPEN = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, "
    r"the shape in current model is torch\.Size\((.*?)\)"
)
_TRANSFORMERS_PREFIXES = ("vision_model.", "text_model.", "embeddings.", "encoder.layer.", "vit.")
_NOT_COPIED = re.compile(r'While copying the parameter named "(.*?)"')


class _Ignored:
    """Stand-in for an object that training programs leave beside the weights."""

    def __init__(self, *_: object) -> None:
        """Take the object's arguments and do nothing with them."""

    def __setstate__(self, state: object) -> None:
        """Ignore the object's state."""


# Objects beside the weights that hold values alone: scalars and arrays of NumPy, and paths. Their
# own code does not run; the reader gets a stand-in. timm's training program stores its arguments in
# a plain Namespace.
_INERT = (
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
)
# Packages whose classes are in the pickle of a whole model.
_MODULES = ("torch.nn.modules.", "open_clip.", "timm.", "clip.", "transformers.models.")
_ALLOWED: list[Any] = [argparse.Namespace, *((_Ignored, name) for name in _INERT)]

# torch's list of globals that a checkpoint may name is shared by all threads.
_READING = threading.Lock()


def read(path: Path) -> dict[str, Tensor]:
    """Read the weights in a checkpoint, by parameter name.

    Containers of training programs and the prefixes of wrapped modules are removed, see
    :func:`legrad_engine.models.unwrapping.unwrap`.

    Args:
        path: a safetensors file, or a file that ``torch.save`` wrote.

    Raises:
        ModelLoadError: the file is damaged, not a checkpoint, or holds more than plain tensors.
        UnsupportedModelError: its names are those of a model that cannot be explained.
    """
    weights = unwrap(content_of(path), repr(str(path)))
    foreign = refused_weights(weights)
    if foreign is not None:
        raise UnsupportedModelError(
            f"The checkpoint {str(path)!r} cannot be explained: {foreign}.", field="model"
        )
    return weights


def content_of(path: Path) -> object:
    """Read a checkpoint as it is, with its containers.

    Args:
        path: see :func:`read`.

    Raises:
        ModelLoadError: see :func:`read`.
    """
    if path.suffix in _NUMPY_SUFFIXES:
        raise ModelLoadError(
            f"{str(path)!r} is a NumPy archive: convert it to safetensors.", field="model"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with _READING, torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, error) from error


def check_real_numbers(weights: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    """Refuse integers where a model has real numbers: torch would convert them without a word.

    Args:
        weights: tensors of the checkpoint, by the model's names.
        own: the model's ``state_dict``.

    Raises:
        ModelLoadError: a tensor of the checkpoint is of integers.
    """
    for name, expected in own.items():
        given = weights.get(name)
        if (
            isinstance(given, Tensor)
            and expected.is_floating_point()
            and not given.is_floating_point()
        ):
            raise ModelLoadError(
                f"The checkpoint holds {name} as {given.dtype}, where the model has real numbers.",
                field="model",
            )


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


def misfit(path: Path, error: Exception, remedy: str = "") -> ModelLoadError:
    """Make the error for a checkpoint whose weights do not fit the model.

    Args:
        path: the checkpoint.
        error: the error of ``load_state_dict`` or of a conversion before it.
        remedy: sentence that names the likely fix, without a full stop; empty if none is known.
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
    remedy = remedy or _remedy_of(text)
    message = f"The checkpoint {str(path)!r} does not fit the model's config: {reason}."
    return ModelLoadError(f"{message} {remedy}." if remedy else message, field="model")


def misfits_only_in(error: Exception, name: str) -> bool:
    """Tell whether one weight's shape is all that keeps a checkpoint from fitting."""
    text = str(error)
    shapes = [found for found, _, _ in _MISSHAPEN.findall(text)]
    return shapes == [name] and not _MISSING.search(text) and not _UNEXPECTED.search(text)


def _named(problem: str, keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - _KEYS_NAMED} more" if len(keys) > _KEYS_NAMED else ""
    return [f"{len(keys)} {problem} ({', '.join(keys[:_KEYS_NAMED])}{more})"]


def _remedy_of(text: str) -> str:
    unexpected = [key for keys in _UNEXPECTED.findall(text) for key in _quoted(keys)]
    if any("lora_" in key for key in unexpected):
        return ADAPTER_REMEDY
    if any(key.startswith(_TRANSFORMERS_PREFIXES) for key in unexpected):
        return "Its names are those of Hugging Face transformers: give its folder as transformers:"
    if _MISSING.search(text) and not unexpected and not _MISSHAPEN.search(text):
        return "It holds a part of the model: save the state_dict of the whole model"
    return ""


def _quoted(keys: str) -> list[str]:
    return re.findall(r'"(.*?)"', keys)


def _unreadable(path: Path, error: Exception) -> ModelLoadError:
    forbidden = _forbidden(path, error)
    if forbidden is not None:
        contents, conversion = forbidden
        return ModelLoadError(
            f"{str(path)!r} holds more than plain tensors{contents}. Code is never unpickled: if "
            f"you trust the checkpoint, convert it to safetensors, or run {conversion}.",
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


def _forbidden(path: Path, error: Exception) -> tuple[str, str] | None:
    """Name a pickle's contents beyond tensors, as a clause, and code that converts the file.

    Returns:
        None for plain tensors.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        names = []
    names = [name for name in names if name not in ("argparse.Namespace", *_INERT)]
    if any(name.startswith(_MODULES) for name in names):
        return (
            " (a whole model)",
            "torch.save(torch.load(OLD, weights_only=False).state_dict(), NEW)",
        )
    saving = 'torch.save(torch.load(OLD, weights_only=False)["state_dict"], NEW)'
    if names:
        return f" ({', '.join(names[:_KEYS_NAMED])})", saving
    if "TorchScript" in str(error):
        conversion = 'torch.save(torch.jit.load(OLD, map_location="cpu").state_dict(), NEW)'
        return " (it is a TorchScript program)", conversion
    refused = isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error)
    return ("", saving) if refused else None
