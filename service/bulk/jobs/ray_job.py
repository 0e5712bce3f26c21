"""Computing on Ray Data. The only module that imports Ray; it needs the extra `ray`."""

import math
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig
from ray.data.datasource import Datasource, ReadTask

from legrad_engine.errors import LegradError, in_one_line
from legrad_engine.importing import frozen_after
from legrad_engine.models.identity import ModelIdentity
from service.bulk.jobs import listed, rows
from service.bulk.jobs.errors import JobError
from service.bulk.jobs.listed import Listed
from service.bulk.jobs.output import Output
from service.bulk.jobs.reading import BLOCK, BLOCKS_AT_ONCE
from service.bulk.jobs.rows import MapType
from service.bulk.questions import Question
from service.settings.cores import available_cores

# Rows of one file, for many pictures; for few, each block is a file, so that little is lost.
_FILE = 1024
_FILES_AT_LEAST = 64
_RETRIES = 3
_CHECKPOINT_MEMORY = 64 * 2**20
_OBJECT_STORE = 200 * 2**20
_CONNECT_SECONDS = 5
# Beside the model: filtering and writing.
_OTHER_PROCESSES = 2
# Processes in a row that could not load the model; another one may, on another machine.
_LOAD_FAILURES = 3


@dataclass(frozen=True)
class Work:
    """The part of a job that its processes need.

    Attributes:
        question: the model, prompts and options.
        weights: identity of the weights that every process must load.
        batch: most pictures in one forward pass.
        maps: type of the maps' values.
        device: device of the model in each process.
    """

    question: Question
    weights: str
    batch: int
    maps: MapType
    device: str


@dataclass(frozen=True)
class Counts:
    """Pictures that all processes have computed so far; some may have been computed twice."""

    done: int = 0
    failed: int = 0


class Tracker:
    """Ray actor that gathers progress and reasons from all processes."""

    def __init__(self) -> None:
        self._done = self._failed = 0
        self._reasons: dict[str, str] = {}
        self._fault: str | None = None

    def count(self, done: int, failed: int, reasons: dict[str, str]) -> None:
        """Add computed pictures, and the reasons of those without a row."""
        self._done += done
        self._failed += failed
        self._reasons |= reasons

    def fail(self, reason: str) -> None:
        """Note why a process cannot work at all."""
        self._fault = reason

    def counts(self) -> Counts:
        """Return the counts so far."""
        return Counts(self._done, self._failed)

    def reasons(self) -> dict[str, str]:
        """Return the reasons of pictures without a row, by their ids."""
        return self._reasons

    def fault(self) -> str | None:
        """Return why a process could not work at all, or None."""
        return self._fault


class Pictures(Datasource):  # type: ignore[misc] # Ray is not checked
    """The list of pictures, in blocks."""

    def __init__(self, pictures: Sequence[Listed], block: int) -> None:
        self._blocks = listed.in_blocks(pictures, block)
        self.blocks = len(self._blocks)

    @property
    def name(self) -> str:
        """Name in progress and logs."""
        return "Pictures"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return no estimate: the list holds no bytes of pictures."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 # the blocks are fixed
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return one task for each block."""
        tasks = []
        for block in self._blocks:
            table = listed.to_table(block)
            metadata = BlockMetadata(table.num_rows, table.nbytes, None, None)
            tasks.append(ReadTask(partial(_one, table), metadata, schema=table.schema))
        return tasks


def _one(table: pa.Table) -> list[pa.Table]:
    return [table]


class PictureProcess:
    """Actor of Ray Data that holds the model and makes rows of listed pictures."""

    def __init__(self, work: Work, tracker: Any) -> None:
        """Load the model.

        Raises:
            LegradError: it cannot be loaded here, or has other weights than at the start.
        """
        # Imported here, because they load torch, which neither the command nor the processes that
        # list, filter, count and write need.
        with frozen_after():
            from legrad_engine import Explainer
            from service.bulk.jobs.computing import ListedExplainer

        self._tracker = tracker
        self._maps = work.maps
        try:
            reference = work.question.reference
            before = ModelIdentity.of(reference)
            explainer = Explainer.load(reference, device=work.device)
            identity = ModelIdentity.of_loaded(reference, before)
            if identity.weights != work.weights:
                raise JobError(
                    f"{socket.gethostname()} has other weights of {reference.title} than the "
                    "machine that started the job: give all of them the same files."
                )
            self._explainer = ListedExplainer(
                explainer,
                work.question,
                work.batch,
                work.maps,
                work.question.calibration(identity.weights),
            )
        except Exception as error:
            known = isinstance(error, (LegradError, JobError))
            ray.get(tracker.fail.remote(str(error) if known else in_one_line(error)))
            raise

    def __call__(self, block: pa.Table) -> pa.Table:
        """Explain the pictures of a block; those without a row are left out."""
        pictures = listed.of_table(block)
        try:
            outcome = self._explainer.explain(pictures)
        except Exception as error:
            # A device that failed once may fail every later picture: another process goes on.
            reason = f"The computation failed: {in_one_line(error)}."
            reasons = {each.id: reason for each in pictures}
            ray.get(self._tracker.count.remote(0, 0, reasons))
            os._exit(1)
        failed = sum(row.get("error") is not None for row in outcome.rows)
        self._tracker.count.remote(len(outcome.rows), failed, outcome.failures)
        return rows.to_table(outcome.rows, self._maps)


class Cluster:
    """A connection to Ray, with the processes that a job gets."""

    def __init__(self, workers: int | None, device: str, cpu: int) -> None:
        """Divide the cluster's processors among the processes.

        Args:
            workers: processes that hold the model; None for one for each GPU, or for each machine.
            device: device of each process.
            cpu: processors of each process without a GPU.

        Raises:
            JobError: the cluster is too small.
        """
        whole = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(whole.get("GPU", 0))
        if device.startswith("cuda") and not gpus:
            raise JobError("The cluster has no GPU: add one, or set --device cpu.")
        self.workers = workers or gpus or len(_processors())
        if gpus and self.workers > gpus:
            raise JobError(f"The cluster has {gpus} GPUs: --workers should be at most that.")
        self._gpu = 1 if gpus else 0
        self._cpu = 1 if gpus else cpu
        wanted = self.workers * self._cpu + _OTHER_PROCESSES
        if whole.get("CPU", 0) < wanted:
            raise JobError(
                f"The cluster has {whole.get('CPU', 0):g} processors and the job needs {wanted}: "
                "set fewer --workers, or add machines."
            )
        self._tracker = ray.remote(num_cpus=0)(Tracker).remote()

    def counts(self) -> Counts:
        """Return the progress so far."""
        return ray.get(self._tracker.counts.remote())  # type: ignore[no-any-return]

    def reasons(self) -> dict[str, str]:
        """Return the reasons of pictures without a row, by their ids."""
        return ray.get(self._tracker.reasons.remote())  # type: ignore[no-any-return]

    def compute(
        self, work: Work, pictures: Sequence[Listed], output: Output, *, alone: bool
    ) -> None:
        """Explain pictures and commit their rows; those of failed blocks are left out.

        Args:
            work: the question.
            pictures: the pictures.
            output: the place of the rows.
            alone: each picture is a block of its own, so that none fails for another.

        Raises:
            JobError: a process cannot load the model, or Ray gave up.
        """
        source = Pictures(pictures, 1 if alone else BLOCK)
        per_file = max(1, min(_FILE, len(pictures) // _FILES_AT_LEAST))
        with _settings(output), warnings.catch_warnings():
            # Of the arguments for retries, which Ray 2.64 will take by other names.
            warnings.simplefilter("ignore")
            data = ray.data.read_datasource(source, override_num_blocks=source.blocks).map_batches(
                PictureProcess,
                fn_constructor_args=(work, self._tracker),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    size=self.workers,
                    max_tasks_in_flight_per_actor=1 if alone else 4,
                    max_concurrent_calls_per_actor=1 if alone else BLOCKS_AT_ONCE,
                    enable_true_multi_threading=not alone,
                ),
                num_cpus=self._cpu,
                num_gpus=self._gpu,
                # Ray replaces no process whose restarts are used up, and would wait for it for
                # ever; so the tries of a block are limited, and not the restarts.
                max_restarts=-1,
                max_task_retries=1 if alone else _RETRIES,
            )
            try:
                data.write_parquet(
                    output.rows_path, filesystem=output.file_system, min_rows_per_file=per_file
                )
            except Exception as error:
                fault = ray.get(self._tracker.fault.remote())
                reason = fault or f"Ray gave up the job: {in_one_line(error)}."
                raise JobError(f"{reason} The same command goes on with what is left.") from error


@contextmanager
def connected(address: str | None, workers: int | None, device: str) -> Iterator[Cluster]:
    """Start Ray on this machine, or connect to a cluster, until the context ends.

    Args:
        address: HOST:PORT of a cluster, or ``auto``; None for a Ray of this command's own.
        workers: see :class:`Cluster`.
        device: see :class:`Cluster`.

    Raises:
        JobError: the cluster cannot be reached, or is too small.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    cores = math.floor(available_cores())
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        used = max(1, cores // (workers or 1))
        options |= {
            "num_cpus": used * (workers or 1) + _OTHER_PROCESSES,
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
            # Never a cluster that RAY_ADDRESS names without being asked for.
            "address": "local",
        }
    else:
        _probe(address)
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:
        place = "on this machine" if address is None else f"at {address}"
        raise JobError(
            f"Ray cannot be started {place} ({in_one_line(error)}): its logs are below "
            "/tmp/ray/session_latest/logs. On a busy machine, run the command again later; a "
            "cluster with tokens wants RAY_AUTH_MODE=token."
        ) from error
    try:
        if address is not None:
            used = max(1, int(min(_processors(), default=1)) - _OTHER_PROCESSES)
        yield Cluster(workers, device, used)
    finally:
        ray.shutdown()


def _processors() -> list[float]:
    """Return the processors of each machine that has any for processes; a head often has none."""
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return [each for each in nodes if each]


def _probe(address: str) -> None:
    """Check that something listens at an address; Ray itself would wait for long."""
    if address.startswith("ray://"):
        raise JobError(
            "--address takes a cluster's own address, HOST:6379: run the command on a machine of "
            "the cluster, or with `ray job submit`."
        )
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdecimal() or not host:
        raise JobError(f"--address should be HOST:PORT or auto, not {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise JobError(
            f"No Ray cluster answers at {address} ({in_one_line(error)}): start one with "
            "`ray start --head`, or leave out --address."
        ) from error


@contextmanager
def _settings(output: Output) -> Iterator[None]:
    """Set what a job needs in the settings of Ray Data, which are those of the whole process."""
    context = DataContext.get_current()
    checkpoint = CheckpointConfig(
        "id",
        output.committed_path,
        delete_checkpoint_on_success=False,
        override_filesystem=output.file_system,
    )
    checkpoint.checkpoint_actor_memory_bytes = _CHECKPOINT_MEMORY
    ours: dict[str, Any] = {
        "checkpoint_config": checkpoint,
        # Blocks that failed are counted and tried again, one picture at a time.
        "max_errored_blocks": -1,
        "max_consecutive_actor_init_deaths": _LOAD_FAILURES,
        "enable_progress_bars": False,
    }
    before = {name: getattr(context, name) for name in ours}
    for name, value in ours.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
