"""The launcher: a program that imports what picture processes need, and forks them.

It is one process without torch and without threads, so that a fork is cheap and safe whatever the
server's own process holds. Each byte on its control socket comes with two descriptors: the
connection of a new picture process, and a pipe that receives its exit status. Once the server has
closed the control socket or has ended, the launcher kills the picture processes and ends.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
from typing import NoReturn

from PIL import AvifImagePlugin

from service.pictures import process

STATUS = struct.Struct("<i")
"""Exit status of a picture process; the negative number of a signal that ended it."""

# Signals of a terminal or a supervisor to the whole group: the server decides when to end.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def main(descriptor: int) -> NoReturn:
    """Run the launcher.

    Args:
        descriptor: the control socket.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # The other cores have processes of their own; each thread would count as memory of a picture.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # Loaded when it is first needed, and not by each process.
    with contextlib.suppress(ImportError):
        importlib.import_module("_pillow_heif")
    # Otherwise the first collection in each process would copy every shared page.
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=descriptor)
    _Launcher(control).run()


class _Launcher:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._statuses: dict[int, int] = {}
        self._woken, self._wake = socket.socketpair()
        for each in (self._woken, self._wake):
            each.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        # A signal that is ignored would not wake.
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> NoReturn:
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._control:
                        self._launch()
                    else:
                        self._woken.recv(4096)
                        self._report_ended()

    def _launch(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
        if not data:
            self._end()
        connection, status = descriptors
        try:
            pid = os.fork()
        except OSError:
            # The server sees that both are closed, and tries again.
            os.close(status)
        else:
            if not pid:
                os.close(status)
                self._become_picture_process(connection)
            self._statuses[pid] = status
        finally:
            os.close(connection)

    def _become_picture_process(self, connection: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (self._control, self._woken, self._wake):
                each.close()
            for status in self._statuses.values():
                os.close(status)
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
            process.serve(socket.socket(fileno=connection))
        finally:
            os._exit(0)

    def _report_ended(self) -> None:
        while self._statuses:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            descriptor = self._statuses.pop(pid)
            try:
                os.write(descriptor, STATUS.pack(os.waitstatus_to_exitcode(status)))
            except OSError:
                pass  # The server does not want to know.
            finally:
                os.close(descriptor)

    def _end(self) -> NoReturn:
        for pid in self._statuses:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
