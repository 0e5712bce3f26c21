"""The switch of the parts that only CUDA devices have: the fused kernel and captured graphs."""

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Self, TypeVar, get_args

import torch

from legrad_engine.errors import check_choice
from legrad_engine.legrad.fused_product import FusedProduct
from legrad_engine.legrad.graphs import CudaRecorder, Graphs
from legrad_engine.legrad.rectified_product import RectifiedProduct, sum_rectified_product
from legrad_engine.legrad.switches import Acceleration

_Result = TypeVar("_Result")
_Size = tuple[int, int]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The accelerated parts of one model, or the plain ones.

    Attributes:
        product: computes the sum of ReLU(G V^T).
        graphs: captured graphs, for inputs of the model's own size; None for none.
        own_size: (width, height) in pixels.
    """

    product: RectifiedProduct
    graphs: Graphs | None
    own_size: _Size

    @classmethod
    def choose(cls, acceleration: Acceleration, device: torch.device, own_size: _Size) -> Self:
        """Choose the parts for a model.

        Args:
            acceleration: ``"off"``, ``"kernel"`` for the fused kernel, ``"graphs"`` for captured
                graphs, or ``"all"``. On other devices than CUDA ones it has no effect, and the log
                says so.
            device: the model's device.
            own_size: see :class:`Accelerator`.

        Raises:
            InvalidOptionError: another value.
        """
        check_choice("accelerate", acceleration, get_args(Acceleration))
        if acceleration != "off" and device.type != "cuda":
            _logger.info("accelerate=%s has no effect on the device %s", acceleration, device)
            acceleration = "off"
        return cls(
            FusedProduct() if acceleration in ("kernel", "all") else sum_rectified_product,
            Graphs(CudaRecorder(device)) if acceleration in ("graphs", "all") else None,
            own_size,
        )

    def run(
        self, input_size: _Size, key: Hashable, compute: Callable[..., _Result], *inputs: Any
    ) -> _Result:
        """Return ``compute(*inputs)``; see :meth:`Graphs.run`.

        Args:
            input_size: (width, height) of the inputs in pixels.
            key: see :meth:`Graphs.run`.
            compute: see :meth:`Graphs.run`.
            inputs: see :meth:`Graphs.run`.
        """
        # Towers drop the tables of other sizes after a while, and a graph would still read them.
        if self.graphs is None or input_size != self.own_size:
            return compute(*inputs)
        return self.graphs.run(key, compute, *inputs)
