"""The command `legrad calibrate`. Importing this module loads no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from legrad_engine.errors import LegradError
from service.bulk.commands.options import DeviceOption, ModelArgument
from service.bulk.console import INTERRUPTED, fail, progress_bar

if TYPE_CHECKING:
    from legrad_engine.evaluation.presence import PresencePair
    from legrad_engine.presence import PresenceCalibration

_BATCH = 8


def calibrate(
    model: ModelArgument,
    folder: Annotated[
        Path,
        typer.Argument(
            help="Pictures with and without the things of your prompts: a table prompts.csv with "
            "the columns picture, prompt, present; or PROMPT/with and PROMPT/without."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the calibration.")] = Path(
        "presence.json"
    ),
    device: DeviceOption = "auto",
) -> None:
    """Fit the presence of things in pictures: a probability for each similarity of a model.

    The setting LEGRAD_PRESENCE of a server names the file that this writes; `legrad explain`, `ask`
    and `bulk` take it by --presence.
    """
    from legrad_engine.evaluation.presence import read_pairs

    try:
        pairs = read_pairs(folder)
        fitted = _fit(model, folder, pairs, device)
        fitted.write(output)
    except (LegradError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        typer.echo("Interrupted: nothing was written.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(
        f"{fitted.pairs_with} pairs with and {fitted.pairs_without} without; on pictures left out "
        f"of the fit: expected calibration error {fitted.calibration_error:.3f}, Brier score "
        f"{fitted.brier:.3f}: {output}"
    )


def _fit(
    model: str, folder: Path, pairs: "Sequence[PresencePair]", device: str
) -> "PresenceCalibration":
    from legrad_engine import Explainer
    from legrad_engine.evaluation.files import read_picture
    from legrad_engine.models import ModelReference
    from legrad_engine.models.identity import ModelIdentity
    from legrad_engine.presence import check_counts, fit

    check_counts([pair.shown for pair in pairs], [pair.picture for pair in pairs])
    reference = ModelReference.parse(model)
    reference.check()
    before = ModelIdentity.of(reference)
    explainer = Explainer.load(reference, device=device)
    identity = ModelIdentity.of_loaded(reference, before)
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    texts = explainer.text.encode(prompts)
    pictures = list(dict.fromkeys(pair.picture for pair in pairs))
    similarities: dict[tuple[Path, str], float] = {}
    with progress_bar(len(pictures), "Calibrating") as advance:
        for start in range(0, len(pictures), _BATCH):
            batch = pictures[start : start + _BATCH]
            trace = explainer.trace([read_picture(path) for path in batch], layers=1)
            for path, row in zip(batch, (trace.embeddings @ texts.T).tolist(), strict=True):
                for prompt, each in zip(prompts, row, strict=True):
                    similarities[path, prompt] = each
                advance()
    return fit(
        [similarities[pair.picture, pair.prompt] for pair in pairs],
        [pair.shown for pair in pairs],
        [pair.picture for pair in pairs],
        source=f"{len(pictures)} pictures and {len(prompts)} prompts of {folder.resolve().name}",
        identity=identity,
    )
