"""Division of batches that do not fit in memory, or hold an item that cannot be computed."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from legrad_engine import LegradError
from legrad_engine.devices import is_out_of_memory, release_cached_memory

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parts(
    items: Sequence[_Item], compute: Callable[[Sequence[_Item]], Sequence[_Result]]
) -> list[_Result | str]:
    """Compute a batch; halve it as long as it exceeds the device's memory or is refused.

    Args:
        items: the batch.
        compute: from items to their results, in order.

    Returns:
        The result of each item, or the reason why it has none even alone.
    """
    if not items:
        return []
    try:
        return list(compute(items))
    except LegradError as error:
        reason = str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        release_cached_memory()
        reason = "The picture does not fit in the device's memory."
    if len(items) == 1:
        return [reason]
    middle = len(items) // 2
    return [*in_parts(items[:middle], compute), *in_parts(items[middle:], compute)]
