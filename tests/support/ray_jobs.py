"""A small Ray cluster in processes of its own, whose workers know the storage `counted://`."""

import importlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.paths import ROOT

_STORAGE = Path(__file__).with_name("counted_storage")
_METADATA = "Metadata-Version: 2.1\nName: counted-storage\nVersion: 1.0\n"
_ENTRY_POINTS = "[fsspec.specs]\ncounted = counted_storage:CountedFileSystem\n"

_PROGRAM = """
import sys, ray
ray.init(address="local", num_cpus=4, object_store_memory=200 * 2**20, include_dashboard=False,
         log_to_driver=False, logging_level="error")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
_STARTS = 6
_END_SECONDS = 120.0
_CHILDREN_SECONDS = 30.0

PATIENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default 15, which starves its workers on a busy machine.
    "RAY_worker_niceness": "0",
    # Limits on its own start, which a busy machine exceeds.
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_timeout_ms": "60000",
    # Otherwise it kills workers while other programs take nearly all memory of the machine.
    "RAY_memory_monitor_refresh_ms": "0",
}
"""Variables of a cluster on a busy machine."""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the cluster and of its clients.

    Args:
        folder: an empty folder for the packages that both find on their path.
    """
    installed = folder / "counted_storage-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(_METADATA)
    (installed / "entry_points.txt").write_text(_ENTRY_POINTS)
    # Ray starts in half the time without the agents of its dashboard.
    (folder / "aiohttp_cors.py").write_text("raise ModuleNotFoundError(name='aiohttp_cors')\n")
    path = [str(_STORAGE), str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        **PATIENT,
    }


def read_token_again() -> None:
    """Let Ray read the mode and the token of the environment, as it did when it was imported."""
    # Compiled code, of which type checkers know nothing.
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def ray_cluster(variables: Mapping[str, str]) -> Iterator[str]:
    """Start a cluster and yield its address.

    Args:
        variables: from :func:`environment`, and others that its workers should have.
    """
    # On a busy machine Ray's own limits of time for its start may be too short. Each attempt is a
    # process of its own, because the parts of a start that failed live as long as it does.
    for _ in range(_STARTS):
        with _ended(
            subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                env={**os.environ, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        ) as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if address:
                yield address
                return
    raise AssertionError("The cluster has not started.")


@contextmanager
def _ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """End the program, and what it has started, with the context."""
    try:
        yield process
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        try:
            # The end of its input ends the program.
            process.communicate(timeout=_END_SECONDS)
        finally:
            process.kill()
            process.wait()
            for left in psutil.wait_procs(started, timeout=_CHILDREN_SECONDS)[1]:
                left.kill()
