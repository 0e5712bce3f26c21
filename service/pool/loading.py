"""Loading and warming up a model, errors that may heal, and returning memory."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
import structlog
import torch
from PIL import Image
from torch import Tensor

from legrad_engine import Explainer, LegradError
from legrad_engine.devices import (
    automatic_dtype,
    disable_cudnn_attention,
    dtype_name,
    is_out_of_memory,
    release_cached_memory,
    resolve_dtype,
    use_tensor_float32,
    worker_names,
)
from legrad_engine.errors import InvalidTargetError, ModelLoadError
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.legrad.switches import Acceleration
from legrad_engine.models import ModelReference
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.presence import PresenceCalibration, PresenceError
from legrad_engine.targets.text import share_vectors
from service.settings.values import DtypeName

_TIMED_PASSES = 2
# A larger batch that is hardly faster only adds latency.
_CLOSE_TO_BEST = 0.95
_CALIBRATION_SECONDS = 20.0
# A larger batch computes longer than its kernels take to launch, and its graphs hold much memory.
_MOST_CAPTURED_IMAGES = 16
# Common numbers of targets; others are computed without a graph.
_CAPTURED_TARGETS = (1, 2, 4, 8)

_log = structlog.get_logger("legrad.models")


@dataclass(frozen=True, slots=True)
class WarmModel:
    """One copy of a model after its first computations, and its measured speed.

    Attributes:
        explainer: the model, ready for its first request.
        seconds_per_image: shortest measured time for an image of the model's own size in a batch of
            ``max_batch_images``, with all layers and one target.
        max_batch_images: the batch size beyond which images per second no longer grow.
    """

    explainer: Explainer
    seconds_per_image: float
    max_batch_images: int


@dataclass(frozen=True, slots=True)
class LoadedCopies:
    """The copies of a model.

    Attributes:
        warm: the copies by the names of their workers, at least one.
        left_out: the reason why a device has no copy, by the name of the worker it would have.
    """

    warm: dict[str, WarmModel]
    left_out: dict[str, str]


class NotFiniteWeightsError(ModelLoadError):
    """A model computes numbers that are not finite in its warm-up."""


def wanted_dtype(dtype: DtypeName, devices: Sequence[torch.device]) -> torch.dtype:
    """Return the precision in which a model is loaded first."""
    return automatic_dtype(devices) if dtype == "auto" else resolve_dtype(dtype)


def load_copies(
    reference: ModelReference,
    devices: Sequence[torch.device],
    dtype: DtypeName,
    accelerate: Acceleration,
    max_batch_images: int,
) -> LoadedCopies:
    """Load a copy of a model for each device, and warm it up.

    A device that fails is left out, and logged, as long as another one is left. A model that does
    not compute finite numbers in the half precision that ``auto`` chose is loaded in float32.

    Args:
        reference: the model.
        devices: at least one device.
        dtype: precision of weights and activations.
        accelerate: what CUDA devices use, see :class:`legrad_engine.Explainer`.
        max_batch_images: most images in one batch, at least 1.

    Raises:
        LegradError: see :meth:`legrad_engine.Explainer.load`; or the model computes numbers that
            are not finite.
    """
    precision = wanted_dtype(dtype, devices)
    try:
        return _load_copies(reference, devices, precision, accelerate, max_batch_images)
    except NotFiniteWeightsError:
        if dtype != "auto" or precision == torch.float32:
            raise
    # After the exception, whose frames hold the first copies.
    _log.warning("model needs float32", model=reference.title, dtype=dtype_name(precision))
    give_back_memory()
    return _load_copies(reference, devices, torch.float32, accelerate, max_batch_images)


def _load_copies(
    reference: ModelReference,
    devices: Sequence[torch.device],
    dtype: torch.dtype,
    accelerate: Acceleration,
    max_batch_images: int,
) -> LoadedCopies:
    use_tensor_float32(devices, dtype)
    disable_cudnn_attention(devices)
    copies: dict[str, WarmModel] = {}
    left_out: dict[str, str] = {}
    for worker, device in zip(worker_names(devices), devices, strict=True):
        try:
            explainer = Explainer.load(reference, device=device, dtype=dtype, accelerate=accelerate)
            batches = warm_up_batches(device.type, max_batch_images)
            copies[worker] = _warm_up(explainer, batches, max_batch_images)
        except Exception as error:
            if isinstance(error, NotFiniteWeightsError) or len(left_out) + 1 == len(devices):
                raise
            left_out[worker] = told_reason(reference, error)
            _log.error(
                "device has no copy",
                model=reference.title,
                device=worker,
                reason=str(error),
                exc_info=None if isinstance(error, LegradError) else error,
            )
    share_vectors(copy.explainer.text for copy in copies.values())
    return LoadedCopies(copies, left_out)


def told_reason(reference: ModelReference, error: Exception) -> str:
    """Return the reason of a failed load as callers may know it.

    An unexpected error may hold internal details: they are referred to the log.
    """
    reason = str(error) if isinstance(error, LegradError) else "it is in the server's log"
    return reference.without_folders(reason)


def check_presence_of_files(
    reference: ModelReference, calibration: PresenceCalibration
) -> ModelIdentity | None:
    """Check a calibration before its model is loaded, as far as local files tell the weights.

    Returns:
        The identity of local files, for :func:`check_presence`; None for a model on the hub, whose
        weights are known once they are loaded.

    Raises:
        ModelLoadError: it was fitted for other weights, or a file cannot be read.
    """
    identity = ModelIdentity.of(reference)
    if identity is None or not identity.stamps:
        return None
    _require_fitted_for(reference, calibration, identity)
    return identity


def check_presence(
    reference: ModelReference, calibration: PresenceCalibration, before: ModelIdentity | None
) -> ModelIdentity:
    """Check that a calibration was fitted for the weights of a model that has just been loaded.

    Args:
        reference: the model.
        calibration: its calibration.
        before: the result of :func:`check_presence_of_files`.

    Returns:
        The identity of the model.

    Raises:
        ModelLoadError: it was fitted for other weights, or files changed meanwhile.
    """
    identity = ModelIdentity.of_loaded(reference, before)
    _require_fitted_for(reference, calibration, identity)
    return identity


def _require_fitted_for(
    reference: ModelReference, calibration: PresenceCalibration, identity: ModelIdentity
) -> None:
    try:
        calibration.check(identity.weights)
    except PresenceError as error:
        raise ModelLoadError(
            f"{reference.title}: {error} Or take it out of LEGRAD_PRESENCE.", field="model"
        ) from error


def warm_up_batches(device_type: str, max_batch_images: int) -> tuple[int, ...]:
    """Return the batch sizes to compute once before the first request, ascending.

    On a CPU one image is enough: kernels are compiled ahead and chosen for each call, so the first
    pass sets up thread pools and folds weights for every batch size. An accelerator selects and
    sometimes compiles kernels for each shape, and requests memory from the driver as batches grow.
    Batches of a busy server have any size; powers of two are close to all of them.

    Args:
        device_type: value of ``torch.device.type``.
        max_batch_images: most images in one batch, at least 1.
    """
    if device_type == "cpu":
        return (1,)
    powers = (1 << exponent for exponent in range(max_batch_images.bit_length()))
    return tuple(sorted({*powers, max_batch_images}))


def may_heal(error: Exception) -> bool:
    """Return whether the same load could succeed later.

    Failures of the network, the file system or memory are temporary. A model that does not exist or
    cannot be explained, and a checkpoint that does not fit or cannot be read, are permanent.
    """
    if isinstance(error, LegradError) and not isinstance(error, ModelLoadError):
        return False
    if any(_may_pass(cause) for cause in _causes(error)):
        return True
    # Without a temporary cause, an error of the engine is permanent; any other one may pass.
    return not isinstance(error, LegradError)


def give_back_memory() -> None:
    """Return the memory of unloaded models to the operating system and the device."""
    gc.collect()
    release_cached_memory()
    # The C library keeps freed weights in its heaps, one for each thread that loaded a model, until
    # it is told to return them. Only the GNU C library has this call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _may_pass(cause: BaseException) -> bool:
    if isinstance(cause, (OSError, httpx.TransportError)):
        return True
    return isinstance(cause, Exception) and is_out_of_memory(cause)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and the chain of its causes, explicit or implicit."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def saturating_batch(seconds: Mapping[int, float]) -> int:
    """Return the smallest batch size whose images per second are close to the best.

    Args:
        seconds: measured time of a batch, by its size; not empty.
    """
    speeds = {size: size / taken for size, taken in seconds.items()}
    enough = _CLOSE_TO_BEST * max(speeds.values())
    return min(size for size, speed in speeds.items() if speed >= enough)


def _warm_up(explainer: Explainer, batches: tuple[int, ...], max_batch_images: int) -> WarmModel:
    """Compute batches of ascending sizes; with several, find the size that saturates the device.

    Ends early where memory or ``_CALIBRATION_SECONDS`` are exhausted.
    """
    prepared = explainer.prepare(Image.new("RGB", explainer.own_size))
    began = time.monotonic()
    seconds: dict[int, float] = {}
    out_of_time = False
    for size in batches:
        try:
            _capture(explainer, [prepared] * size)
            # The first pass of a size selects and compiles its kernels.
            _compute(explainer, [prepared] * size)
            if size == 1:
                _warm_up_texts(explainer)
            # The minimum, because other work on the machine can only slow a pass down.
            seconds[size] = min(
                _compute(explainer, [prepared] * size) for _ in range(_TIMED_PASSES)
            )
        except Exception as error:
            # The batcher will halve batches of this size, so the model still serves smaller ones.
            if size == 1 or not is_out_of_memory(error):
                raise
            release_cached_memory()
            break
        out_of_time = time.monotonic() - began > _CALIBRATION_SECONDS
        if out_of_time:
            break
    found = saturating_batch(seconds)
    # Where only smaller batches were measured, larger ones may be faster still.
    unknown = len(batches) == 1 or (out_of_time and found == max(seconds))
    most = max_batch_images if unknown else found
    return WarmModel(explainer, seconds[found] / found, most)


def _warm_up_texts(explainer: Explainer) -> None:
    # A model without a text encoder refuses texts.
    with contextlib.suppress(InvalidTargetError):
        _require_finite(explainer.text.encode(["a photo"]), "text embeddings")


def _capture(explainer: Explainer, images: Sequence[PreparedImage]) -> None:
    """Capture graphs for one size of batches, where the model has them."""
    if explainer.accelerator.graphs is None or len(images) > _MOST_CAPTURED_IMAGES:
        return
    with explainer.accelerator.graphs.capturing():
        for targets in _CAPTURED_TARGETS:
            trace = explainer.trace(images)
            explainer.attribute(trace, trace.embeddings[:1].expand(targets, -1))


def _compute(explainer: Explainer, images: Sequence[PreparedImage]) -> float:
    """Compute one batch and return the seconds it took."""
    began = time.perf_counter()
    trace = explainer.trace(images)
    _require_finite(trace.embeddings, "image embeddings")
    (found, *_) = explainer.attribute(trace, trace.embeddings[:1])
    _require_finite(torch.from_numpy(found.maps), "maps")
    return time.perf_counter() - began


def _require_finite(numbers: Tensor, name: str) -> None:
    if not numbers.isfinite().all():
        raise NotFiniteWeightsError(
            f"The model's {name} are not finite numbers: its weights are damaged, or too large for "
            "this precision (LEGRAD_DTYPE).",
            field="model",
        )
