"""Devices, dtypes, threads, and detection of exhausted memory."""

import math

import torch

from legrad_engine.errors import InvalidOptionError

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def resolve_device(device: str | torch.device) -> torch.device:
    """Resolve a device; ``"auto"`` is the best one available: cuda, then mps, then cpu.

    Raises:
        InvalidOptionError: the device is unknown or not available on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise InvalidOptionError(
            f"device={str(device)!r} cannot be used here: {error}", field="device"
        ) from error
    return resolved


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Resolve a dtype by its name.

    Raises:
        InvalidOptionError: the dtype is not one of :data:`DTYPES`.
    """
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in DTYPES.values():
        raise InvalidOptionError(
            f"dtype={dtype!r} is unknown: use one of {', '.join(DTYPES)}.", field="dtype"
        )
    return resolved


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype, such as ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def use_threads(count: int) -> None:
    """Set the number of CPU threads that one tensor operation may use, for the whole process."""
    torch.set_num_threads(count)


def usable_threads(device: torch.device, cores: float) -> int:
    """Return the number of CPU threads for tensor operations on a device.

    On an accelerator one thread hands it its work, and the other cores are for pictures. On a CPU
    it is torch's own choice, or the environment's, but no more than the cores.

    Args:
        device: the device that computes.
        cores: number of cores that this process may use, such as 1.5.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), math.floor(cores)))


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that the device or the machine has no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release_cached_memory() -> None:
    """Return torch's cached memory to the device, so that a smaller batch may fit."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
