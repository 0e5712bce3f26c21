"""The server's side of the launcher and of its picture processes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess  # nosec B404
import sys
import threading
from multiprocessing import spawn
from typing import Any, ClassVar, Self

from service.pictures.jobs import Order, Ready
from service.pictures.launcher import STATUS
from service.pictures.messages import receive_answer, send_soon

# Each process does one thing at a time; further threads would only take cores from the others. The
# allocator's heaps for threads would count as memory of a picture.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from service.pictures.launcher import main; main({number})"
)
# For the launcher, once its control socket is closed.
_END_SECONDS = 1.0


class Launcher:
    """The launcher of this process. Its users share one; it ends with the last of them.

    A server has one user. Several applications in one process, as in tests, would otherwise start
    a Python interpreter each.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _shared: ClassVar["Launcher | None"] = None

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._users = 0
        self._control: socket.socket | None = None
        self._program: subprocess.Popen[bytes] | None = None

    @classmethod
    def use(cls) -> Self:
        """Return the launcher of this process; call :meth:`release` afterwards."""
        with cls._lock:
            # A process that was forked without exec shares nothing with its parent.
            if cls._shared is None or cls._shared._owner != os.getpid():
                cls._shared = cls()
            cls._shared._users += 1
            return cls._shared  # type: ignore[return-value]

    def release(self) -> None:
        """End the launcher if this was its last user; blocks for a moment."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._end()

    def launch(self) -> "PictureProcess":
        """Start a picture process, and the launcher if it does not run.

        Raises:
            OSError: there are no more descriptors, processes or memory.
        """
        with self._lock, contextlib.ExitStack() as closing:
            connection, theirs = socket.socketpair()
            closing.enter_context(theirs)
            status, report = socket.socketpair()
            closing.enter_context(report)
            undo = contextlib.ExitStack()
            with undo:
                undo.enter_context(connection)
                undo.enter_context(status)
                control = self._running()
                socket.send_fds(control, [b"+"], [theirs.fileno(), report.fileno()])
                undo.pop_all()
            return PictureProcess(connection, status)

    def _running(self) -> socket.socket:
        if self._program is not None and self._program.poll() is not None:
            self._end()
        if self._control is None:
            control, theirs = socket.socketpair()
            with theirs:
                self._program = subprocess.Popen(  # nosec B603 # the interpreter itself
                    [
                        os.fsdecode(spawn.get_executable()),
                        "-c",
                        _PROGRAM.format(path=sys.path, number=theirs.fileno()),
                    ],
                    env=os.environ | _ENVIRONMENT,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    # Decoders in C write warnings; the log is one JSON object for each line.
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._control = control
        return self._control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._program is not None:
            try:
                self._program.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()
            self._program = None


class PictureProcess:
    """One picture process. All methods run on the event loop.

    Attributes:
        pid: its process id, once it is ready.
        orders: number of jobs that it was given.
        canvases: the canvases that it keeps: their sizes in bytes, by their numbers.
        dropped: numbers of canvases that it may drop with its next order.
        ended_for: the reason why the server has killed it, or None.
    """

    def __init__(self, connection: socket.socket, status: socket.socket) -> None:
        for each in (connection, status):
            each.setblocking(False)
        self._connection = connection
        self._status = status
        self._killed = False
        self.pid = 0
        self.orders = 0
        self.canvases: dict[int, int] = {}
        self.dropped: list[int] = []
        self.ended_for: str | None = None

    def take_dropped(self) -> tuple[int, ...]:
        """Return the numbers of the canvases to drop, and clear them."""
        dropped = tuple(self.dropped)
        self.dropped.clear()
        return dropped

    async def wait_until_ready(self) -> None:
        """Wait until the process takes jobs.

        Raises:
            OSError: it could not be started.
            EOFError: it could not be started.
        """
        ready: Ready = await receive_answer(self._connection)
        self.pid = ready.pid

    async def ask(self, order: Order) -> Any:
        """Send an order with a job, and receive its answer.

        Raises:
            OSError: the process has ended.
            EOFError: the process has ended.
            pickle.UnpicklingError: the answer is not one of a picture process.
        """
        self.orders += 1
        await send_soon(self._connection, order)
        return await receive_answer(self._connection)

    async def tell(self, order: Order) -> None:
        """Send an order without a job.

        Raises:
            OSError: the process has ended.
        """
        await send_soon(self._connection, order)

    def kill(self, reason: str) -> None:
        """Kill the process; :meth:`wait` tells when it has ended."""
        if self.ended_for is None:
            self.ended_for = reason
        # Not before it is ready. After the launcher has reported its end, the id is another's.
        if self.pid and not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> int | None:
        """Wait for the end of the process.

        Returns:
            Its exit status, negative for a signal; None if its launcher has ended with it.
        """
        loop = asyncio.get_running_loop()
        try:
            reported = await loop.sock_recv(self._status, STATUS.size)
        except OSError:
            reported = b""
        if len(reported) != STATUS.size:
            return None
        self._killed = True
        status: int = STATUS.unpack(reported)[0]
        return status

    def close(self) -> None:
        """Close the connection: an idle process ends."""
        self._connection.close()
        self._status.close()
