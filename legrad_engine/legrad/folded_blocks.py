"""The folded weights of one model's blocks, each computed once."""

import threading
from collections.abc import Callable

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.base import Tower
from legrad_engine.legrad.closed_form import FoldedBlock


class FoldedBlocks:
    """Folds the blocks of one model when they are first explained. Safe to share by threads."""

    def __init__(self) -> None:
        self._folded: dict[int, FoldedBlock] = {}
        self._folding = threading.Lock()

    def of(self, tower: Tower) -> Callable[[int], FoldedBlock]:
        """Return the function from the index of a block of the model's tower to its weights.

        It raises an InvalidOptionError for a block without a closed form.
        """

        def fold(index: int) -> FoldedBlock:
            with self._folding:
                if index not in self._folded:
                    known = tower.known_block(index)
                    if known is None:
                        raise InvalidOptionError(
                            "The trace was made by another model.", field="trace"
                        )
                    self._folded[index] = FoldedBlock.fold(known)
                return self._folded[index]

        return fold
