"""``legrad`` with workers that fail in the way that a prompt asks for."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from service.__main__ import main
from service.batching import Computation
from service.pool.explain_items import Explained
from service.pool.explain_worker import ExplainProcessor

RAISE = "the worker raises"
DIE = "the worker dies"
HANG = "the worker hangs forever"
HANG_FOR_A_WHILE = "the worker hangs for a while"
NEVER_FITS = "never fits in memory"
FITS_ALONE = "fits in memory alone"


def program(released: Path) -> Callable[[], None]:
    """Return the program; a worker that hangs for a while does so until the file exists."""
    return partial(run_with_failures, partial(_fail, released))


def run_with_failures(fail: Callable[[Sequence[Any]], None]) -> None:
    """Run ``legrad``; call ``fail``, which may raise or hang, with the items of each batch."""
    ExplainProcessor.launch = _faulty(  # type: ignore[method-assign, assignment]
        ExplainProcessor.launch, fail
    )
    main()


def _fail(released: Path, items: Sequence[Any]) -> None:
    for text in {text for item in items for text in item.question.texts}:
        if text == RAISE:
            raise ValueError("as a bug would")
        if text == DIE:
            raise SystemExit("as if the device were lost")
        if text == NEVER_FITS or (text == FITS_ALONE and len(items) > 1):
            raise torch.OutOfMemoryError("as an exhausted device says")
        pause = threading.Event()
        while text == HANG or (text == HANG_FOR_A_WHILE and not released.exists()):
            pause.wait(0.01)


def _faulty(
    launch: Callable[[ExplainProcessor, Sequence[Any]], Computation[Explained]],
    fail: Callable[[Sequence[Any]], None],
) -> Callable[[ExplainProcessor, Sequence[Any]], Computation[Explained]]:
    def faulty(self: ExplainProcessor, items: Sequence[Any]) -> Computation[Explained]:
        fail(items)
        return launch(self, items)

    return faulty
