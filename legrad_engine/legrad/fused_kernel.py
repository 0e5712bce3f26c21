"""Triton kernel of the sum of ReLU(G V^T). Importing this module needs triton.

One program computes the sums of a block of keys for one image, target and group of heads. It holds
the head's values of its keys on the chip, reads the gradient's rows block by block, and adds
the rectified products up in registers, so the product never reaches the card's memory. Groups of
heads write apart and are added up afterwards in a fixed order: equal inputs give equal bits.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Wider heads do not fit on the chip beside their rows.
_MOST_HEAD_WIDTH = 256

# The smallest block of a matrix product in Triton.
_LEAST_BLOCK = 16
_BLOCK_KEYS = 64
# Programs for each multiprocessor of the card, so that none is idle at the end.
_PROGRAMS_EACH = 4


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Sizes of a program's blocks.

    Attributes:
        rows: query rows at a time.
        keys: key tokens.
        width: head width, rounded up to a power of two.
        warps: groups of 32 threads.
        stages: blocks of rows that are loaded ahead.
    """

    rows: int
    keys: int
    width: int
    warps: int = 4
    stages: int = 2

    @classmethod
    def of(cls, head_width: int, item_bytes: int) -> "_Blocks":
        """Choose blocks of at most about 48 KiB, which fit on every card that Triton supports."""
        width = max(_LEAST_BLOCK, triton.next_power_of_2(head_width))
        line = width * item_bytes
        if line <= 256:
            return cls(64, _BLOCK_KEYS, width)
        if line <= 512:
            return cls(32, 32, width)
        return cls(16, 16, width, stages=1)


@triton.jit(do_not_specialize=["targets", "heads", "rows", "keys", "heads_each"])  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    gradient,
    values,
    sums,
    targets,
    heads,
    rows,
    keys,
    heads_each,
    gradient_image,
    gradient_target,
    gradient_head,
    gradient_row,
    gradient_item,
    values_image,
    values_head,
    values_key,
    values_item,
    WIDTH: tl.constexpr,  # noqa: N803
    BLOCK_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_KEYS: tl.constexpr,  # noqa: N803
    BLOCK_WIDTH: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    key_blocks = tl.cdiv(keys, BLOCK_KEYS)
    groups = tl.cdiv(heads, heads_each)
    program = tl.program_id(0)
    key_block = program % key_blocks
    group = (program // key_blocks) % groups
    # In 64 bits, because a large batch has more elements than 32 bits can count.
    pair = (program // key_blocks // groups).to(tl.int64)
    image = pair // targets
    target = pair % targets

    key_places = key_block * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    row_places = tl.arange(0, BLOCK_ROWS)
    items = tl.arange(0, BLOCK_WIDTH)
    key_exists = key_places < keys
    item_exists = items < WIDTH

    totals = tl.zeros((BLOCK_ROWS, BLOCK_KEYS), dtype=tl.float32)
    first_head = group * heads_each
    for head in range(first_head, tl.minimum(first_head + heads_each, heads)):
        head_values = values + image * values_image + head * values_head
        block_values = tl.load(
            head_values + items[:, None] * values_item + key_places[None, :] * values_key,
            mask=item_exists[:, None] & key_exists[None, :],
            other=0.0,
        )
        head_gradient = (
            gradient + image * gradient_image + target * gradient_target + head * gradient_head
        )
        for start in range(0, rows, BLOCK_ROWS):
            places = start + row_places
            block_gradient = tl.load(
                head_gradient + places[:, None] * gradient_row + items[None, :] * gradient_item,
                mask=(places < rows)[:, None] & item_exists[None, :],
                other=0.0,
            )
            product = tl.dot(block_gradient, block_values, input_precision=PRECISION)
            # As torch does: a NaN must not become 0.
            totals += tl.maximum(product, 0.0, propagate_nan=tl.PropagateNan.ALL)
    pairs = tl.num_programs(0) // key_blocks // groups
    tl.store(
        sums + (group * pairs + pair) * keys + key_places, tl.sum(totals, axis=0), mask=key_exists
    )


def supports(gradient: Tensor, values: Tensor) -> bool:
    """Tell whether the kernel is made for tensors of this kind."""
    return (
        gradient.dtype in _DTYPES
        and values.dtype == gradient.dtype
        and gradient.shape[-1] <= _MOST_HEAD_WIDTH
        and _has_matrix_units(gradient.device)
    )


@cache
def _has_matrix_units(device: torch.device) -> bool:
    """Return whether Triton multiplies matrices on a device by more than single products."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


@torch.no_grad()
def sum_rectified_product(gradient: Tensor, values: Tensor) -> Tensor:
    """Compute :func:`legrad_engine.legrad.rectified_product.sum_rectified_product` in one kernel.

    Args:
        gradient: ``[B, P, heads, R, head_dim]`` of any strides; see :func:`supports`.
        values: ``[B, heads, N, head_dim]`` of any strides, in the same dtype.

    Returns:
        float32 ``[B, P, N]``, accumulated in float32.

    Raises:
        Exception: whatever triton raises if it cannot compile or start the kernel.
    """
    batch, targets, heads, rows, width = gradient.shape
    keys = values.shape[2]
    blocks = _Blocks.of(width, gradient.element_size())
    key_blocks = triton.cdiv(keys, blocks.keys)
    heads_each = _heads_each(heads, batch * targets * key_blocks, _programs_wanted(gradient.device))
    groups = triton.cdiv(heads, heads_each)
    sums = torch.empty(groups, batch, targets, keys, device=gradient.device, dtype=torch.float32)
    exact = gradient.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    # Triton starts kernels on the current device, which need not be the tensors'.
    with torch.cuda.device_of(gradient):  # type: ignore[no-untyped-call]
        _kernel[(batch * targets * groups * key_blocks,)](
            gradient,
            values,
            sums,
            targets,
            heads,
            rows,
            keys,
            heads_each,
            *gradient.stride(),
            *values.stride(),
            # Known when compiled: a mask of unknown width would keep loads from being wide.
            WIDTH=width,
            BLOCK_ROWS=blocks.rows,
            BLOCK_KEYS=blocks.keys,
            BLOCK_WIDTH=blocks.width,
            PRECISION="ieee" if exact else "tf32",
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
    return sums[0] if groups == 1 else sums.sum(0)


def _heads_each(heads: int, programs: int, wanted: int) -> int:
    """Return the number of heads of one program, so that small batches use the whole card too."""
    groups = min(heads, max(1, -(-wanted // programs)))
    return -(-heads // groups)


@cache
def _programs_wanted(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return _PROGRAMS_EACH * torch.cuda.get_device_properties(device).multi_processor_count
