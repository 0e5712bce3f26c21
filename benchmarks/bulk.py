"""Overhead of a picture in a bulk job on Ray Data, beyond the engine: `python -m benchmarks.bulk`.

Needs the extra ``ray``. Jobs of few and of many pictures run in turns on one local cluster; the
difference of their times, over that of their pictures, is the time of a picture without the start
of processes and the loading of the model. The engine reads, decodes and explains the same files in
one loop, in batches of the same size, with as many threads.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import workload
from benchmarks.timing import timed
from legrad_engine import Explainer
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.schemes import STARTER
from service.bulk.batches import BatchExplainer
from service.bulk.jobs.listed import Listed, identified
from service.bulk.jobs.listing import list_input
from service.bulk.jobs.output import Output
from service.bulk.jobs.ray_job import Cluster, Work, connected
from service.bulk.questions import Question

AIM_MILLISECONDS = 3.0
_SIZE = (640, 480)
_PROMPTS = ("a cat", "a dog", "a car", "a tree")
_BATCH = 8


def main(
    few: Annotated[int, typer.Option(min=32, help="Pictures of a short job.")] = 96,
    many: Annotated[int, typer.Option(min=64, help="Pictures of a long job.")] = 480,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds of each.")] = 3,
) -> None:
    """Print milliseconds of a picture in a job and on the engine, and their difference."""
    question = Question(STARTER, _PROMPTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = _listed(folder / "pictures", many)
        explainer = Explainer.load(STARTER)
        weights = ModelIdentity.of_loaded(question.reference, None).weights
        work = Work(question, weights, _BATCH, "float32", "cpu")
        batches = BatchExplainer(explainer, question)
        jobs, engine = [], []
        with connected(None, None, "cpu") as cluster:
            for number in range(rounds + 1):
                places = [str(folder / f"{number}-{count}") for count in (few, many)]
                short, long = (
                    _job(cluster, work, pictures[:count], place)
                    for count, place in zip((few, many), places, strict=True)
                )
                jobs.append(1000 * (long - short) / (many - few))
                engine.append(1000 * timed(lambda: _explain(explainer, batches, pictures)) / many)
    # The first round fills caches.
    job, alone = (statistics.median(found[1:]) for found in (jobs, engine))
    typer.echo(f"a picture in a job: {job:.1f} ms ({_told(jobs[1:])})")
    typer.echo(
        f"on the engine, {torch.get_num_threads()} threads: {alone:.1f} ms ({_told(engine[1:])})"
    )
    typer.echo(f"overhead: {job - alone:.1f} ms, aim {AIM_MILLISECONDS:g}")


def _listed(folder: Path, count: int) -> list[Listed]:
    folder.mkdir()
    for seed in range(count):
        (folder / f"{seed}.jpg").write_bytes(workload.jpeg(*_SIZE, seed))
    return list(identified(list_input(str(folder), "", None).pictures, "benchmark").values())


def _job(cluster: Cluster, work: Work, pictures: Sequence[Listed], place: str) -> float:
    output = Output(place, "benchmark")

    def compute() -> None:
        with output.begin({}, ()):
            cluster.compute(work, pictures, output, alone=False)

    seconds = timed(compute)
    if len(output.ids()) != len(pictures):
        raise RuntimeError("not every picture was explained")
    return seconds


def _explain(explainer: Explainer, batches: BatchExplainer, pictures: Sequence[Listed]) -> None:
    for start in range(0, len(pictures), _BATCH):
        paths = [each.uri.removeprefix("file://") for each in pictures[start : start + _BATCH]]
        batches.explain([(path, explainer.prepare(path)) for path in paths])


def _told(found: Sequence[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in found)


if __name__ == "__main__":
    typer.run(main)
