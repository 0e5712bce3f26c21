"""Devices, dtypes, threads, and detection of exhausted memory."""

import logging
import math
import threading
from collections.abc import Callable, Sequence

import torch

from legrad_engine.errors import InvalidOptionError

_logger = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

# The first compute capability whose tensor cores multiply bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)
# Only torch's allocator of CUDA memory raises an error of its own type. The others are that of the
# CPU, CUDA itself (pinned memory, kernels that are loaded late) and its libraries.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
# A library of CUDA reports most errors of a call, such as an unsuitable shape, as a status. These
# ones tell of the device.
_LIBRARY_STATUS = ("CUBLAS_STATUS_", "CUDNN_STATUS_")
_FAILED_DEVICE_STATUS = (
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
)
# CUDA refuses to launch one kernel, mostly for its shapes, and computes the next one.
_REFUSED_LAUNCH = (
    "invalid argument",
    "invalid configuration argument",
    "too many resources requested for launch",
    # By another thread.
    "stream is capturing",
)

capture_lock = threading.Lock()
"""Held while a graph is captured, and while the allocator's cache is emptied.

A capture begins by waiting for the whole device and by emptying that cache. Both are errors while
another capture goes on."""


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


def resolve_devices(devices: str) -> tuple[torch.device, ...]:
    """Resolve the devices that each compute with a copy of the model.

    Args:
        devices: one device, see :func:`resolve_device`; several of one kind, separated by commas;
            or ``"all"`` for every CUDA device. ``"cpu,cpu"`` shares one processor: it is meant for
            tests.

    Raises:
        InvalidOptionError: a device is unknown, not available, repeated or of another kind.
    """
    names = [name.strip() for name in devices.split(",") if name.strip()]
    if names == ["all"]:
        count = torch.cuda.device_count()
        if not count:
            raise InvalidOptionError(
                "device='all' means every CUDA device, but there is none here: use 'auto'.",
                field="device",
            )
        return tuple(torch.device("cuda", index) for index in range(count))
    if not names:
        raise InvalidOptionError("Name at least one device, such as 'cpu'.", field="device")
    if len(names) > 1 and {"auto", "all"} & set(names):
        raise InvalidOptionError(
            f"device={devices!r}: 'auto' and 'all' stand alone. Name the devices one by one.",
            field="device",
        )
    return check_devices([resolve_device(name) for name in names])


def check_devices(devices: Sequence[torch.device]) -> tuple[torch.device, ...]:
    """Return devices with their indices; check that they can serve one model together.

    Raises:
        InvalidOptionError: the devices are of several kinds, or one that is not a CPU is repeated.
    """
    numbered = tuple(
        torch.device("cuda", device.index or 0) if device.type == "cuda" else device
        for device in devices
    )
    names = [str(device) for device in numbered]
    if len({device.type for device in numbered}) > 1:
        raise InvalidOptionError(
            f"device={','.join(names)!r} mixes kinds, whose answers differ in precision and speed: "
            "use devices of one kind, or a server for each kind.",
            field="device",
        )
    repeated = sorted({name for name in names if names.count(name) > 1} - {"cpu"})
    if repeated:
        raise InvalidOptionError(
            f"device={','.join(names)!r} repeats {repeated[0]}: a second copy of the model there "
            "takes memory and gains nothing.",
            field="device",
        )
    return numbered


def worker_names(devices: Sequence[torch.device]) -> tuple[str, ...]:
    """Return a distinct name for the worker of each device, such as ``"cuda:1"``."""
    names = [str(device) for device in devices]
    return tuple(
        name if names.count(name) == 1 else f"{name}#{names[:place].count(name)}"
        for place, name in enumerate(names)
    )


def automatic_dtype(devices: Sequence[torch.device]) -> torch.dtype:
    """Choose the fastest dtype of devices that compute together.

    Returns:
        bfloat16 for CUDA devices that all compute it natively, float16 for other CUDA devices and
        for MPS, float32 for CPUs and any other device.
    """
    kinds = {device.type for device in devices}
    if kinds == {"cuda"}:
        return cuda_dtype([torch.cuda.get_device_capability(device) for device in devices])
    return torch.float16 if kinds == {"mps"} else torch.float32


def cuda_dtype(capabilities: Sequence[tuple[int, int]]) -> torch.dtype:
    """Choose the dtype of CUDA devices by their compute capabilities."""
    native = all(capability >= _BFLOAT16_CAPABILITY for capability in capabilities)
    return torch.bfloat16 if native else torch.float16


def use_tensor_float32(devices: Sequence[torch.device], dtype: torch.dtype) -> bool:
    """Let CUDA devices multiply float32 in TensorFloat-32, where float32 is asked of them.

    Returns:
        Whether they do from now on, in the whole process.
    """
    wanted = dtype == torch.float32 and any(device.type == "cuda" for device in devices)
    if wanted:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return wanted


def disable_cudnn_attention(devices: Sequence[torch.device]) -> None:
    """Turn cuDNN's attention off for CUDA devices; newer cards prefer it in half precision.

    It plans anew for each shape and thread, and plans are reported to take half a second. Batches
    have many shapes, and the worker is another thread than that of the warm-up.
    """
    if any(device.type == "cuda" for device in devices):
        torch.backends.cuda.enable_cudnn_sdp(False)


def bind_thread(device: torch.device) -> None:
    """Make a device the calling thread's current one, and check that it computes.

    Raises:
        RuntimeError: the device fails.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if torch.ones(2, device=device).sum().item() != 2:
        raise RuntimeError(f"The device {device} computes wrong numbers.")


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
    return isinstance(error, RuntimeError) and _names(error, _OUT_OF_MEMORY)


def is_device_failure(error: Exception) -> bool:
    """Tell whether an error means that the device failed and computes nothing more."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    if _names(error, _LIBRARY_STATUS):
        return _names(error, _FAILED_DEVICE_STATUS)
    if _names(error, _REFUSED_LAUNCH):
        return False
    # Older versions of torch raise a plain RuntimeError.
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def _names(error: Exception, signs: Sequence[str]) -> bool:
    text = str(error)
    return any(sign in text for sign in signs)


def release_cached_memory() -> None:
    """Return torch's cached memory to the device, so that a smaller batch may fit.

    A failure is logged and not raised: the caller handles another error, or goes on without.
    """
    if torch.cuda.is_available():
        with capture_lock:
            _release(torch.cuda.empty_cache)
    elif torch.backends.mps.is_available():
        _release(torch.mps.empty_cache)


def _release(empty_cache: Callable[[], None]) -> None:
    try:
        empty_cache()
    except RuntimeError as error:
        _logger.warning("Cached memory of the device was not released: %s", error)
