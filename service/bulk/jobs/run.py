"""A job from its input to its last row. Knows no Ray until something is left to compute."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from legrad_engine.models.identity import ModelIdentity
from service.bulk.jobs.errors import JobError
from service.bulk.jobs.listed import Listed, identified
from service.bulk.jobs.listing import list_input
from service.bulk.jobs.output import Output
from service.bulk.jobs.progress import progress
from service.bulk.jobs.rows import VERSION, MapType, error_row
from service.bulk.questions import Question, digest_of, software

if TYPE_CHECKING:
    from legrad_engine import Explainer
    from service.bulk.jobs.ray_job import Cluster, Work

_NOT_COMPUTED = "not-computed"
_NO_ROW = (
    "No row of this picture was committed, although it was tried again alone. Either its process "
    "died: the picture may exceed the memory, or damage its decoder. Or the row could not be "
    "written: every machine must reach the output under the same path, with free space and rights."
)


@dataclass(frozen=True)
class Job:
    """The options of one bulk job.

    Attributes:
        input: place of the pictures, see :func:`service.bulk.jobs.listing.list_input`.
        output: place of the rows.
        question: the model, prompts and options.
        column: column of Parquet files, or None.
        maps: type of the maps' values.
        batch: most pictures in one forward pass.
        device: device of the model in each process.
        address: a cluster's address, or None.
        workers: number of processes that hold the model, or None.
    """

    input: str
    output: str
    question: Question
    column: str | None = None
    maps: MapType = "float32"
    batch: int = 8
    device: str = "auto"
    address: str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Summary:
    """The end of a job.

    Attributes:
        inputs: number of pictures.
        rows: number of them that have exactly one row.
        explained: rows with maps that this run has added.
        known: rows of earlier runs.
        failed: rows with an error that this run has added.
        errors: all rows with an error, those of earlier runs included.
        skipped: files that are no pictures.
        repeated: further mentions of listed pictures.
        output: URI of the rows.
    """

    inputs: int
    rows: int
    explained: int
    known: int
    failed: int
    errors: int
    skipped: int
    repeated: int
    output: str

    @property
    def is_complete(self) -> bool:
        """Whether every picture has its row, and not all of them failed."""
        return self.rows == self.inputs and self.errors < self.rows


def run(job: Job, load: "Callable[[Question], Explainer]") -> Summary:
    """Explain every picture of the input once.

    Args:
        job: its options.
        load: loads the model on this machine and checks the question; called only if a picture is
            left to explain, and before anything is written.

    Raises:
        JobError: the input, the output, the cluster or an option cannot be used.
        LegradError: from ``load``, or the presence calibration is of other weights.
    """
    if job.question.heads != "mean":
        raise JobError(
            "The rows of bulk jobs have one map for each prompt: use heads='mean', or "
            "`legrad explain` for maps of single heads."
        )
    listing = list_input(job.input, job.output, job.column)
    reference = job.question.reference
    known = Output(job.output, "").known_weights(job.question.model)
    before = ModelIdentity.of(reference, known)
    asked = None if before is None else _Asked.of(job, before.weights, listing.pictures)
    if asked is None or asked.missing():
        # Frees its memory before the job's processes load the model.
        load(job.question)
        identity = ModelIdentity.of_loaded(reference, before)
        # A calibration of other weights is refused before anything is written.
        job.question.calibration(identity.weights)
        if asked is None or asked.weights != identity.weights:
            asked = _Asked.of(job, identity.weights, listing.pictures)
    missing = {each.id for each in asked.missing()}
    if missing:
        _compute(job, asked)
    rows, errors = asked.output.rows()
    return Summary(
        inputs=len(asked.pictures),
        rows=sum(rows[key] == 1 for key in asked.pictures),
        explained=sum(key in rows and key not in errors for key in missing),
        known=len(asked.pictures) - len(missing),
        failed=len(missing & errors),
        errors=len(asked.pictures.keys() & errors),
        skipped=len(listing.skipped),
        repeated=len(listing.pictures) - len(asked.pictures),
        output=asked.output.uri,
    )


@dataclass(frozen=True)
class _Asked:
    """A question with its weights, over identified pictures."""

    weights: str
    output: Output
    pictures: Mapping[str, Listed]

    @classmethod
    def of(cls, job: Job, weights: str, pictures: Sequence[Listed]) -> "_Asked":
        digest = digest_of([job.question.digest(weights), job.maps, VERSION])
        return cls(weights, Output(job.output, f"q{digest}"), identified(pictures, digest))

    def missing(self) -> list[Listed]:
        committed = self.output.ids()
        return [each for key, each in self.pictures.items() if key not in committed]


def _compute(job: Job, asked: _Asked) -> None:
    """Compute the missing pictures."""
    try:
        from service.bulk.jobs.ray_job import Work, connected
    except ImportError as error:
        raise JobError("Bulk jobs need Ray: pip install 'legrad-service[ray]'.") from error
    work = Work(job.question, asked.weights, job.batch, job.maps, job.device)
    with (
        asked.output.begin(_record(job, asked), asked.pictures),
        connected(job.address, job.workers, job.device) as cluster,
    ):
        _compute_on(cluster, work, asked)


def _compute_on(cluster: "Cluster", work: "Work", asked: _Asked) -> None:
    missing = asked.missing()

    def done() -> tuple[int, int]:
        counts = cluster.counts()
        return counts.done, counts.failed

    with progress(len(missing), done):
        cluster.compute(work, missing, asked.output, alone=False)
        # A process that died has taken the other pictures of its block with it.
        left = asked.missing()
        if left:
            cluster.compute(work, left, asked.output, alone=True)
            left = asked.missing()
    if left:
        reasons = cluster.reasons()
        failed = [error_row(each, reasons.get(each.id, _NO_ROW), _NOT_COMPUTED) for each in left]
        asked.output.write_failed(failed, work.maps)


def _record(job: Job, asked: _Asked) -> dict[str, object]:
    question = job.question
    calibration = question.calibration(asked.weights)
    return {
        "schema": VERSION,
        "model": question.model,
        "weights": asked.weights,
        "prompts": question.prompts,
        "method": question.method,
        "layers": question.layers,
        "score": question.score,
        "size": question.size,
        "fit": question.fit,
        "presence": None if calibration is None else asdict(calibration),
        "maps": job.maps,
        "software": software(),
    }
