"""Loading and warming up a model, errors that may heal, and returning memory."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx
import torch
from PIL import Image
from torch import Tensor

from legrad_engine import Explainer, LegradError
from legrad_engine.devices import is_out_of_memory, release_cached_memory
from legrad_engine.errors import InvalidTargetError, ModelLoadError
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.models import ModelReference
from service.settings.values import Acceleration, DtypeName

_TIMED_PASSES = 2
# Common numbers of targets; others are computed without a graph.
_CAPTURED_TARGETS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class WarmModel:
    """A model after its first computations, and its measured speed.

    Attributes:
        explainer: the model, ready for its first request.
        seconds_per_image: shortest measured time for an image of the model's own size in the
            largest batch, with all layers and one target.
    """

    explainer: Explainer
    seconds_per_image: float


def load_warm(
    reference: ModelReference,
    device: str,
    dtype: DtypeName,
    accelerate: Acceleration,
    max_batch_images: int,
) -> WarmModel:
    """Load a model and warm it up.

    Args:
        reference: the model.
        device: ``auto`` or a torch device.
        dtype: precision of weights and activations.
        accelerate: what CUDA devices use, see :class:`legrad_engine.Explainer`.
        max_batch_images: most images in one batch, at least 1.

    Raises:
        LegradError: see :meth:`legrad_engine.Explainer.load`; or the model computes numbers that
            are not finite.
    """
    explainer = Explainer.load(reference, device=device, dtype=dtype, accelerate=accelerate)
    return _warm_up(explainer, warm_up_batches(explainer.device.type, max_batch_images))


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


def _warm_up(explainer: Explainer, batches: tuple[int, ...]) -> WarmModel:
    prepared = explainer.prepare(Image.new("RGB", explainer.own_size))
    largest = 1
    for size in batches:
        try:
            _capture(explainer, [prepared] * size)
            _compute(explainer, [prepared] * size)
        except Exception as error:
            # The batcher will halve batches of this size, so the model still serves smaller ones.
            if size == 1 or not is_out_of_memory(error):
                raise
            release_cached_memory()
            break
        largest = size
    # A model without a text encoder refuses texts.
    with contextlib.suppress(InvalidTargetError):
        _require_finite(explainer.text.encode(["a photo"]), "text embeddings")
    # The minimum, because other work on the machine can only slow a pass down.
    seconds = min(_compute(explainer, [prepared] * largest) for _ in range(_TIMED_PASSES))
    return WarmModel(explainer, seconds / largest)


def _capture(explainer: Explainer, images: Sequence[PreparedImage]) -> None:
    """Capture graphs for one size of batches, where the model has them."""
    if explainer.accelerator.graphs is None:
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
        raise ModelLoadError(
            f"The model's {name} are not finite numbers: its weights are damaged, or too large for "
            "this precision (LEGRAD_DTYPE).",
            field="model",
        )
