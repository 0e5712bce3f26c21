"""Program behind `make methods-times`: `python -m tools.methods_eval.prices`.

It times every method on ViT-B/16 beside a plain forward pass and writes docs/methods.md, which
shows the times beside the prices in admission. Weights are random: they do not change the time.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

import legrad_engine.starter
from legrad_engine import Explainer
from tools import methods_page
from tools.methods_eval.times import REPEATS, TARGETS, measure

ARCHITECTURE = "ViT-B-16"
_EXAMPLE = Path(legrad_engine.starter.__file__).parent / "example.png"
_DOCS = Path(__file__).parents[2] / "docs"


def main(
    docs: Annotated[Path, typer.Option(help="Folder of methods.md.")] = _DOCS,
    architecture: Annotated[str, typer.Option(help="Architecture of open_clip.")] = ARCHITECTURE,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of timing.")] = REPEATS,
) -> None:
    """Time every method and write docs/methods.md."""
    explainer = Explainer.load(architecture)
    names = [f"target {number}" for number in range(max(TARGETS))]
    picture = explainer.prepare(Image.open(_EXAMPLE).convert("RGB"))
    found = {
        "model": architecture,
        "threads": torch.get_num_threads(),
        "rounds": repeats,
        "times": measure(explainer, picture, names, repeats),
    }
    (docs / methods_page.TIMES).write_text(json.dumps(found, indent=1) + "\n")
    (docs / methods_page.PAGE).write_text(methods_page.page(docs))


if __name__ == "__main__":
    typer.run(main)
