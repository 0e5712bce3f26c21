"""Processor time of a request: two plain replicas behind HAProxy, and two under Ray Serve.

Needs the program haproxy, and ``--python`` with an environment that has the extra ``ray``:

    python -m benchmarks.ray_serve --python /path/to/environment/bin/python
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer
import yaml

from benchmarks import servers, workload
from benchmarks.load import closed_loop, multipart_request

_ROOT = Path(__file__).parents[1]
_CLIENTS = 16
_SIDE = 256
_PROMPTS = ["a cat", "a dog", "a car", "a tree"]
_NUMBERS = '{"heatmap": "npy", "overlay": false}'
_PATIENCE_SECONDS = 300.0
_SETTINGS = {"compute_threads": 1, "picture_processes": 1, "log_level": "warning"}


_PASSED = ("ray::ProxyActor", "ray::ServeReplica")
_PROXIES_AND_REPLICAS = 3


def main(
    python: Annotated[Path, typer.Option(help="Interpreter of an environment with Ray.")],
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds of each.")] = 5,
    count: Annotated[int, typer.Option(min=16, help="Requests of a round.")] = 200,
) -> None:
    """Measure the two in turns, and print processor milliseconds of a request and their ratio."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        model = workload.write_nearly_free_model(Path(name))
        sides = {
            "two replicas behind HAProxy": stack.enter_context(_plain(model)),
            "two replicas under Ray Serve": stack.enter_context(_ray(model, python)),
        }
        found: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds + 1):
            for side, (url, pids) in sides.items():
                found[side].append(_milliseconds(url, pids, count))
    # The first round of each fills caches.
    medians = {side: statistics.median(values[1:]) for side, values in found.items()}
    plain, ray = medians.values()
    for side, median in medians.items():
        rest = ", ".join(f"{value:.1f}" for value in found[side][1:])
        typer.echo(f"{side}: {median:.1f} processor ms of a request ({rest})")
    typer.echo(f"Ray Serve over plain replicas: {ray / plain:.2f}")


def _milliseconds(url: str, pids: list[int], count: int) -> float:
    pictures = [workload.jpeg(_SIDE, _SIDE, seed) for seed in range(_CLIENTS)]
    requests = [
        multipart_request(workload.unseen(pictures[number % _CLIENTS]), _PROMPTS, _NUMBERS)
        for number in range(count)
    ]
    before = _seconds(pids)
    load = closed_loop(url, requests, clients=_CLIENTS, count=count, patience=_PATIENCE_SECONDS)
    spent = _seconds(pids) - before
    if load.count(httpx.codes.OK) != count:
        raise RuntimeError(f"not every request was answered: {load.statuses()}")
    return 1000 * spent / count


def _seconds(pids: list[int]) -> float:
    """Return the processor time of processes and of all below them, which live on."""
    processes = [
        each
        for pid in pids
        for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]
    return sum(sum(each.cpu_times()[:2]) for each in processes)


@contextmanager
def _plain(model: str) -> Iterator[tuple[str, list[int]]]:
    """Run two replicas behind the deployed balancer; yield its address and all processes."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise RuntimeError("install the program haproxy")
    with (
        servers.legrad(model, **_SETTINGS) as first,
        servers.legrad(model, **_SETTINGS) as second,
        socket.create_server(("127.0.0.1", 0)) as callers,
        socket.create_server(("127.0.0.1", 0)) as statistics_,
    ):
        addresses = {
            "BALANCER_ADDRESS": f"fd@{callers.fileno()}",
            "BALANCER_STATS_ADDRESS": f"fd@{statistics_.fileno()}",
            "REPLICA_1": first.url.removeprefix("http://"),
            "REPLICA_2": second.url.removeprefix("http://"),
        }
        process = subprocess.Popen(
            [program, "-W", "-db", "-f", str(_ROOT / "docker/haproxy/haproxy.cfg")],
            env=os.environ | addresses,
            pass_fds=[callers.fileno(), statistics_.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{callers.getsockname()[1]}"
            servers.wait_until_answered(f"{url}/health/ready")
            yield url, [first.pid, second.pid, process.pid]
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _ray(model: str, python: Path) -> Iterator[tuple[str, list[int]]]:
    """Run the shipped configuration with two replicas; yield its address and its first process."""
    config = yaml.safe_load((_ROOT / "docker/ray/serve.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config["http_options"]["port"] = port = listener.getsockname()[1]
    (application,) = config["applications"]
    application["runtime_env"]["env_vars"] |= {
        f"LEGRAD_{name.upper()}": str(value) for name, value in _SETTINGS.items()
    } | {"LEGRAD_MODELS": model}
    (deployment,) = application["deployments"]
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deployment["ray_actor_options"]["num_cpus"] = 1
    environment = {
        "PYTHONPATH": str(_ROOT),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default 15, which starves it on a busy machine.
        "RAY_worker_niceness": "0",
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_agent_register_timeout_ms": "300000",
    }
    process = subprocess.Popen(
        [str(python), "-m", "benchmarks.ray_program", "4"],
        cwd=_ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the program has no pipes")
    try:
        process.stdin.write(json.dumps(config) + "\n")
        process.stdin.flush()
        answer: dict[str, str] = next(
            (json.loads(line) for line in process.stdout if line.startswith("{")), {}
        )
        if answer.get("status") != "RUNNING":
            raise RuntimeError(f"Ray Serve did not start: {answer}")
        yield f"http://127.0.0.1:{port}", _on_the_way(process.pid)
    finally:
        process.communicate(timeout=_PATIENCE_SECONDS)


def _on_the_way(pid: int) -> list[int]:
    """Return the proxy and the replicas; the rest of Ray spends time whether requests come or not.

    Args:
        pid: the program that has started Ray.
    """
    started = psutil.Process(pid).children(recursive=True)
    names = {each.pid: (each.cmdline() or [""])[0] for each in started}
    found = [each for each, name in names.items() if name.startswith(_PASSED)]
    if len(found) != _PROXIES_AND_REPLICAS:
        raise RuntimeError(f"expected one proxy and two replicas, found {sorted(names.values())}")
    return found


if __name__ == "__main__":
    typer.run(main)
