"""Program behind `make methods-eval`: `python -m tools.methods_eval`.

It measures every method on the built-in model's scenes and writes the figures, the picture and
docs/methods.md. All are written again after every few scenes, so that an interrupted run leaves the
figures of those that it measured; the same command goes on from there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.progress import track

import legrad_engine.starter
from legrad_engine import Explainer
from legrad_engine.evaluation.baselines import BASELINES
from legrad_engine.evaluation.options import MapOptions
from legrad_engine.evaluation.samples import Options
from service.bulk.evaluation.journal import Journal
from service.bulk.evaluation.question import EvaluationQuestion
from service.bulk.evaluation.run import Evaluation, Outcome
from tools import methods_page, methods_tables
from tools.methods_eval.scenes import SCENES, Scenes
from tools.methods_eval.side_by_side import side_by_side
from tools.methods_eval.times import REPEATS, measure
from tools.starter import art

MODEL = "starter"
# Protocols by the split of scenes that they are measured on.
PROTOCOLS = {
    "several": ("segmentation", "localisation", "wrong-prompt"),
    "single": ("perturbation", "insertion-deletion"),
}
_PROMPT = "cat"
_EXAMPLE = Path(legrad_engine.starter.__file__).parent / "example.png"
_DOCS = Path(__file__).parents[2] / "docs"
_STEP = 16


def main(
    cache: Annotated[Path, typer.Option(help="Folder of the rendered art.")] = Path(
        "build/starter"
    ),
    work: Annotated[Path, typer.Option(help="Folder of the journal.")] = Path("build/methods-eval"),
    docs: Annotated[Path, typer.Option(help="Folder of methods.md.")] = _DOCS,
    scenes: Annotated[int, typer.Option(min=1, max=SCENES, help="Scenes of each split.")] = SCENES,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing.")] = REPEATS,
) -> None:
    """Measure every method on scenes with exact masks and write docs/methods.md."""
    art.sprites_of(cache, typer.echo)
    explainer = Explainer.load(MODEL)
    picture = Image.open(_EXAMPLE).convert("RGB")
    (docs / "images").mkdir(parents=True, exist_ok=True)
    side_by_side(explainer, picture, _PROMPT).save(
        docs / methods_tables.PICTURE, quality=80, method=6
    )
    names = Scenes(cache, Options("several")).classes
    figures: dict[str, Any] = {
        "picture": {"prompt": _PROMPT},
        "classes": len(names),
        "times": measure(explainer, explainer.prepare(picture), names, repeats),
    }
    methods = (*(method.name for method in explainer.methods), *BASELINES)
    for split, count in _steps(scenes):
        question = EvaluationQuestion(
            MODEL,
            f"{Scenes.kind}:{cache}",
            PROTOCOLS[split],
            methods,
            Options(split),
            MapOptions(templates=("{}",)),
            score_dtype="bfloat16",
        )
        with Journal(work / split) as journal:
            evaluation = Evaluation(question, journal)
            outcomes = islice(evaluation.outcomes(lambda _: explainer), count)
            measured = list(track(outcomes, f"{count} scenes with {split}", total=count))
            figures[split] = _figures(evaluation, measured)
        _write(figures, docs)


def _steps(scenes: int) -> Iterator[tuple[str, int]]:
    """Yield the splits with growing numbers of scenes.

    A scene of `single` costs about fifteen times as much as one of `several`, so that all of
    `several` come first, once there is a figure of each.
    """
    yield from ((split, min(_STEP, scenes)) for split in PROTOCOLS)
    for split in PROTOCOLS:
        for count in range(2 * _STEP, scenes + _STEP, _STEP):
            yield split, min(count, scenes)


def _figures(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    """Return the figures of the measured scenes, by protocol and method."""
    protocols: dict[str, dict[str, dict[str, float | None]]] = {}
    measured = 0
    for each in evaluation.records(outcomes):
        if each.failed:
            raise typer.BadParameter(f"a scene failed: {each.failed}")
        measured = len(each.records)
        protocols.setdefault(each.run.protocol.name, {})[each.run.method] = {
            figure.name: figure.value for figure in each.run.protocol.summarize(each.records)
        }
    return {"scenes": measured, "weights": evaluation.weights, "protocols": protocols}


def _write(figures: Mapping[str, Any], docs: Path) -> None:
    (docs / methods_tables.FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    (docs / methods_page.PAGE).write_text(methods_page.page(docs))


if __name__ == "__main__":
    typer.run(main)
