"""Choice of the explained blocks."""

from collections.abc import Sequence
from typing import Literal

from legrad_engine.errors import InvalidOptionError

Layers = int | Literal["all"] | Sequence[int]

# The reference implementation's default.
DEFAULT_LAYERS = 2


def resolve_layers(layers: Layers | None, depth: int) -> tuple[int, ...]:
    """Resolve a choice of layers into block indices, ascending.

    Args:
        layers: a count of last blocks, ``"all"``, or indices (negative ones from the end); None for
            the last :data:`DEFAULT_LAYERS` blocks, or all if there are fewer.
        depth: number of blocks.

    Raises:
        InvalidOptionError: a count or index outside the blocks, or no block.
    """
    if layers is None:
        layers = min(DEFAULT_LAYERS, depth)
    if layers == "all":
        return tuple(range(depth))
    if isinstance(layers, int) and not isinstance(layers, bool):
        if not 1 <= layers <= depth:
            raise InvalidOptionError(
                f"layers={layers} is outside 1 to {depth}, this model's number of blocks.",
                field="layers",
            )
        return tuple(range(depth - layers, depth))
    if isinstance(layers, (str, bool)) or not layers or not all(map(_is_index, layers)):
        raise InvalidOptionError(
            "layers must be a count of last blocks, 'all', or a list of block indices.",
            field="layers",
        )
    outside = [index for index in layers if not -depth <= index < depth]
    if outside:
        raise InvalidOptionError(
            f"layers {outside} do not exist: this model's blocks are 0 to {depth - 1}.",
            field="layers",
        )
    return tuple(sorted({index % depth for index in layers}))


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
