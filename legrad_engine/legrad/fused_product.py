"""Sum of ReLU(G V^T) by the fused kernel on CUDA, with the tiled product as the fallback.

A request never fails because of the kernel. If triton is missing, or cannot compile or start the
kernel for a kind of tensor, the tiled product computes the sum from then on, and a warning is
logged once.
"""

import logging
import threading

from torch import Tensor

from legrad_engine.devices import is_out_of_memory
from legrad_engine.legrad import rectified_product

_logger = logging.getLogger(__name__)


class FusedProduct:
    """Computes the sum in one kernel where that is possible. Safe to share between threads.

    Attributes:
        refused: the (device, dtype, head width) that the kernel turned out not to serve.
    """

    def __init__(self, device_type: str = "cuda") -> None:
        """Use the kernel for tensors on this type of device alone."""
        self._device_type = device_type
        self.refused: set[tuple[object, ...]] = set()
        self._refusing = threading.Lock()

    def __call__(self, gradient: Tensor, values: Tensor) -> Tensor:
        """Compute :func:`legrad_engine.legrad.rectified_product.sum_rectified_product`."""
        if gradient.device.type == self._device_type:
            kind = (gradient.device, gradient.dtype, gradient.shape[-1])
            if kind not in self.refused:
                result = self._by_kernel(kind, gradient, values)
                if result is not None:
                    return result
        return rectified_product.sum_rectified_product(gradient, values)

    def _by_kernel(
        self, kind: tuple[object, ...], gradient: Tensor, values: Tensor
    ) -> Tensor | None:
        """Run the kernel; return None where it does not apply to this kind of tensor."""
        try:
            from legrad_engine.legrad import fused_kernel

            if fused_kernel.supports(gradient, values):
                return fused_kernel.sum_rectified_product(gradient, values)
            reason = "heads of this dtype or width do not fit it"
        except Exception as error:
            # The batcher halves batches that do not fit; the kernel is not to blame.
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}"
        with self._refusing:
            if kind not in self.refused:
                self.refused.add(kind)
                _logger.warning(
                    "The fused kernel is not used for %s with heads of width %d on %s: %s",
                    gradient.dtype,
                    gradient.shape[-1],
                    gradient.device,
                    reason,
                )
        return None
