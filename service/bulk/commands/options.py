"""Options that several commands share. Importing this module loads no torch."""

from pathlib import Path
from typing import Annotated

import typer

from legrad_engine.families.scores import Score
from legrad_engine.images.fits import Fit
from legrad_engine.methods import Heads

MODEL_HELP = (
    "`starter`, `NAME/TAG` for open_clip's weights, `NAME@PATH` or `CONFIG.json@PATH` for a "
    "checkpoint, `bcos:NAME@PATH`, or `hf-hub:`, `local-dir:`, `timm:` or `transformers:` names."
)

ModelArgument = Annotated[str, typer.Argument(help=MODEL_HELP)]
ModelOption = Annotated[str, typer.Option(help=MODEL_HELP)]
PromptArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Texts to look for; for models without a text encoder, labels or indices of classes.",
        metavar="PROMPT",
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        help="File of further prompts, one per line; lines that begin with # are skipped."
    ),
]
MethodOption = Annotated[
    str, typer.Option(help="Explanation method: `legrad methods` lists them.", metavar="NAME")
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        help="Number of last blocks to explain, or `all`; the method's own by default, with "
        "legrad 2."
    ),
]
HeadsOption = Annotated[
    Heads,
    typer.Option(
        help="Attention heads of the map: their mean, or a map for each one, in methods that have "
        "them."
    ),
]
ScoreOption = Annotated[
    Score | None, typer.Option(help="The explained score; the method's own by default.")
]
SizeOption = Annotated[int | None, typer.Option(help="Side of the model's input, in pixels.")]
FitOption = Annotated[Fit, typer.Option(help="How pictures are fitted to the input.")]
PresenceOption = Annotated[
    Path | None,
    typer.Option(
        help="Presence calibration that `legrad calibrate` wrote for this model. The built-in "
        "model has its own.",
        metavar="FILE",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
