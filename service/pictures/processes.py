"""The server's side of the launcher and of its picture processes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess  # nosec B404
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import spawn
from typing import Any, ClassVar, Self
from weakref import WeakSet

from service.pictures.faults import no_memory
from service.pictures.jobs import Order, Ready
from service.pictures.launcher import STATUS
from service.pictures.messages import AnswerReader, pack
from service.settings.native_libraries import KEPT_MEMORY

# Each process does one thing at a time; further threads would only take cores from the others. The
# allocator's heaps for threads would count as memory of a picture.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    **{each.variable: str(each.value) for each in KEPT_MEMORY},
}
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from service.pictures.launcher import main; main({number})"
)
# For the launcher: to end once its control socket is closed, or to report the end of a process.
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
        self._launched: WeakSet[PictureProcess] = WeakSet()

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
            process = PictureProcess(connection, status, self._program)
            self._launched.add(process)
            return process

    def give_up(self, process: "PictureProcess") -> None:
        """Kill the launcher that does not start a process, unless another one has replaced it.

        Its other processes end with it, so it lives on as long as one of them has answered since
        the start of this one.
        """
        with self._lock:
            if self._program is None or self._program is not process.launcher:
                return
            if not any(
                each.launcher is self._program and each.answered_at > process.launched_at
                for each in self._launched
            ):
                self._program.kill()

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


class PictureProcess(asyncio.Protocol):
    """One picture process. All methods run on the event loop.

    Attributes:
        launcher: the launcher that starts it.
        launched_at: time at which it was asked for, on the monotonic clock in seconds.
        answered_at: time of its last message on that clock; 0 before the first one.
        pid: its process id, once it is ready.
        orders: number of jobs that it was given.
        canvases: the canvases that it keeps: their sizes in bytes, by their numbers.
        dropped: numbers of canvases that it may drop with its next order.
        ended_for: the reason why the server has killed it, or None.
        ended: whether it takes no more jobs.
    """

    def __init__(
        self,
        connection: socket.socket,
        status: socket.socket,
        launcher: "subprocess.Popen[bytes] | None",
    ) -> None:
        self.launcher = launcher
        self.launched_at = time.monotonic()
        self.answered_at = 0.0
        for each in (connection, status):
            each.setblocking(False)
        self._connection = connection
        self._status = status
        self._transport: asyncio.WriteTransport | None = None
        self._reader = AnswerReader()
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._answered: Callable[[Any], None] = self._started
        self._killed = False
        self.pid = 0
        self.orders = 0
        self.canvases: dict[int, int] = {}
        self.dropped: list[int] = []
        self.ended_for: str | None = None
        self.ended = False

    def take_dropped(self) -> tuple[int, ...]:
        """Return the numbers of the canvases to drop, and clear them."""
        dropped = tuple(self.dropped)
        self.dropped.clear()
        return dropped

    async def start(self, answered: Callable[[Any], None]) -> None:
        """Wait until the process takes jobs.

        Args:
            answered: called with each answer to a job, or with an error of the server in place of
                one. It is not called for a job in progress when the process ends: see :meth:`wait`.

        Raises:
            OSError: it could not be started.
        """
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=self._connection)
        self.pid = (await self._ready).pid
        self._answered = answered

    def ask(self, order: Order) -> None:
        """Send an order with a job.

        Raises:
            MemoryError: the server has no memory left; the process was sent nothing.
        """
        self.orders += 1
        self.tell(order)

    def tell(self, order: Order) -> None:
        """Send an order; one without a job gets no answer."""
        if self._transport is not None:
            self._transport.writelines(pack(order))

    def kill(self, reason: str) -> None:
        """Kill the process; :meth:`wait` tells when it has ended."""
        self.ended = True
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
            Its exit status, negative for a signal; None if its launcher has ended with it, or has
            not reported its end in time.
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
        if self._transport is None:
            self._connection.close()
        else:
            self._transport.abort()
        self._status.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes of an answer. See :class:`asyncio.Protocol`."""
        try:
            answer = self._reader.feed(data)
        except MemoryError:
            self.kill("broken")
            self._answered(no_memory())
        # Bytes that are no message raise errors of nearly any type.
        except Exception:
            self.kill("broken")
        else:
            if answer is not None:
                self.answered_at = time.monotonic()
                self._answered(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect the end of the process. See :class:`asyncio.Protocol`."""
        self.ended = True
        if not self._ready.done():
            self._ready.set_exception(exc or ConnectionResetError("it ended at once"))
            # Asked for by nobody if the start was given up.
            self._ready.exception()
        # The launcher is about to report how it ended.
        asyncio.get_running_loop().call_later(_END_SECONDS, self._expect_no_report)

    def _expect_no_report(self) -> None:
        """End :meth:`wait`: the launcher hangs, or the process lives on without its connection."""
        self.kill("crashed")
        with contextlib.suppress(OSError):
            self._status.shutdown(socket.SHUT_RD)

    def _started(self, answer: Any) -> None:
        if isinstance(answer, Ready) and not self._ready.done():
            self._ready.set_result(answer)
        else:
            self.kill("broken")
