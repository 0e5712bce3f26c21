"""A picture process: carries out one job after the other until the server closes the connection."""

import contextlib
import io
import os
import socket
import traceback
from pathlib import Path

from legrad_engine.errors import LegradError
from service.errors import ServiceError
from service.pictures.jobs import Canvases, Done, Failed, Job, Order, OutOfMemory, Ready, Refused
from service.pictures.memory import MemoryLimit
from service.pictures.messages import receive, send

# The kernel ends a picture process before the server, if the machine has no memory left.
_OOM_SCORE = "500"
# A small picture or the maps of one, with the order.
_READ_BYTES = 2**16


def serve(connection: socket.socket) -> None:
    """Announce the process, then answer orders until the connection is closed.

    Args:
        connection: socket to the server.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    canvases: Canvases = {}
    memory = MemoryLimit()
    send(connection, Ready(os.getpid()))
    stream = io.BufferedReader(socket.SocketIO(connection, "r"), _READ_BYTES)
    while (order := receive(stream)) is not None:
        for number in order.dropped:
            canvases.pop(number, None)
        if order.job is not None:
            memory.allow(order.max_bytes)
            answer = _carry_out(order.job, order, canvases)
            # An answer needs memory as well.
            memory.lift()
            send(connection, answer)


def _carry_out(job: Job, order: Order, canvases: Canvases) -> Done | Refused | OutOfMemory | Failed:
    try:
        return Done(job.run(canvases, order.number))
    except (LegradError, ServiceError) as error:
        return Refused(error.with_traceback(None))
    except MemoryError:
        return OutOfMemory()
    # A bug fails its request, and the process continues.
    except Exception:
        return Failed(traceback.format_exc())
