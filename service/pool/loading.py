"""From a model's name to an explainer that has computed every batch shape it will meet first."""

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
from legrad_engine.images.decoding import PreparedImage
from legrad_engine.models import ModelReference
from service.settings import Settings

_TIMED_PASSES = 2


@dataclass(frozen=True, slots=True)
class WarmModel:
    """A model that has computed once, and how fast it then was.

    Attributes:
        explainer: ready for its first request.
        seconds_per_image: for a picture of the model's own size in the largest batch, all layers of
            it for one target, at best.
    """

    explainer: Explainer
    seconds_per_image: float


def load_warm(reference: ModelReference, settings: Settings) -> WarmModel:
    """Loads a model and warms it up.

    Raises:
        LegradError: see :meth:`legrad_engine.Explainer.load`.
    """
    explainer = Explainer.load(
        reference.name, reference.pretrained, device=settings.device, dtype=settings.dtype
    )
    return _warm_up(explainer, warm_up_batches(explainer.device.type, settings.max_batch_images))


def warm_up_batches(device_type: str, max_batch_images: int) -> tuple[int, ...]:
    """The numbers of images to compute once before the first request, ascending.

    On a CPU one image is enough: its kernels are compiled ahead and chosen per call, so the first
    pass pays for thread pools and for folding weights, whatever the batch. An accelerator picks
    and sometimes compiles kernels for each shape, and takes memory from the driver as batches
    grow; batches of a busy server have any size, and powers of two come near all of them.

    Args:
        device_type: as in ``torch.device.type``.
        max_batch_images: most images in one batch, at least 1.
    """
    if device_type == "cpu":
        return (1,)
    powers = (1 << exponent for exponent in range(max_batch_images.bit_length()))
    return tuple(sorted({*powers, max_batch_images}))


def may_heal(error: Exception) -> bool:
    """Whether loading again could succeed with nothing but time between.

    A network, a file system or memory can recover. A model that does not exist or cannot be
    explained, and a checkpoint that does not fit or cannot be read, stay what they are.
    """
    if isinstance(error, LegradError) and not isinstance(error, ModelLoadError):
        return False
    if any(_may_pass(cause) for cause in _causes(error)):
        return True
    # A refusal that names no such cause is final; an error that nobody foresaw may pass.
    return not isinstance(error, LegradError)


def give_back_memory() -> None:
    """Returns what unloaded models held to the machine and its device."""
    gc.collect()
    release_cached_memory()
    # Freed weights stay in the C library's heaps, one for each thread that loaded a model, until
    # it is told to return them. Only GNU's has that call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _may_pass(cause: BaseException) -> bool:
    if isinstance(cause, (OSError, httpx.TransportError)):
        return True
    return isinstance(cause, Exception) and is_out_of_memory(cause)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, also where it was raised anew without saying so."""
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
            _compute(explainer, [prepared] * size)
        except Exception as error:
            # The batcher halves such a batch when it comes; the model serves smaller ones.
            if size == 1 or not is_out_of_memory(error):
                raise
            release_cached_memory()
            break
        largest = size
    # A model of images alone has no text to read.
    with contextlib.suppress(InvalidTargetError):
        _require_finite(explainer.text.encode(["a photo"]), "text embeddings")
    # Other work on the machine only ever makes it look slower.
    seconds = min(_compute(explainer, [prepared] * largest) for _ in range(_TIMED_PASSES))
    return WarmModel(explainer, seconds / largest)


def _compute(explainer: Explainer, images: Sequence[PreparedImage]) -> float:
    """Seconds that it took."""
    began = time.perf_counter()
    trace = explainer.trace(images)
    _require_finite(trace.embeddings, "image embeddings")
    (found, *_) = explainer.attribute(trace, trace.embeddings[:1])
    _require_finite(torch.from_numpy(found.maps), "maps")
    return time.perf_counter() - began


def _require_finite(numbers: Tensor, what: str) -> None:
    if not numbers.isfinite().all():
        raise ModelLoadError(
            f"The model's {what} are not finite numbers: its weights are damaged, or too large for "
            "this precision (LEGRAD_DTYPE).",
            field="model",
        )
