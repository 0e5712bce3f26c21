"""A Python program in a process that is forked from one with the slow imports already done.

Importing torch and open_clip takes seconds of processor time, more than most tests of a server.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from runpy import run_module

PRELOADED = ("service.app", "service.cli", "service.server.process")
"""Modules that the process imports from which programs are forked."""

_CONTEXT = multiprocessing.get_context("forkserver")
# The first imports the others, but is only found where the tests run in the root of the repository.
_CONTEXT.set_forkserver_preload(["tests.support.preloaded", *PRELOADED])


class ForkedProgram:
    """A process with the members of ``subprocess.Popen`` that tests use."""

    def __init__(
        self, main: Callable[[], object], arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            main: function of a module that the new process can import.
            arguments: the program's ``sys.argv``.
            environment: its environment variables.
        """
        readers, writers = zip(*(_CONTEXT.Pipe(duplex=False) for _ in range(2)), strict=True)
        self._process = _CONTEXT.Process(
            target=_run, args=(main, list(arguments), dict(environment), *writers)
        )
        self._process.start()
        for writer in writers:
            writer.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(reader.fileno())) for reader in readers)

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status; None while the process runs."""
        return self._process.exitcode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the end of the process; return what it wrote to its output and its errors.

        Raises:
            TimeoutError: it still runs after this many seconds.
        """
        with ThreadPoolExecutor(2) as threads:
            written = threads.map(lambda stream: stream.read(), (self.stdout, self.stderr))
            try:
                self.wait(timeout)
            except TimeoutError:
                self.kill()
                raise
            output, errors = written
        return output, errors

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process; return its exit status.

        Raises:
            TimeoutError: it still runs after this many seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"The process still runs after {timeout} seconds.")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()


def module_program(name: str) -> Callable[[], object]:
    """Return the program of ``python -m NAME``."""
    return partial(run_module, name, run_name="__main__", alter_sys=True)


def _run(
    main: Callable[[], object],
    arguments: list[str],
    environment: dict[str, str],
    output: Connection,
    errors: Connection,
) -> None:
    for written, descriptor in ((output, 1), (errors, 2)):
        os.dup2(written.fileno(), descriptor)
        written.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    main()
