"""The starter's scenes as a data set of `legrad evaluate`: composed from seeds, exact masks."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.files import require
from legrad_engine.evaluation.registry import register_data_set
from legrad_engine.evaluation.samples import Annotation, DataSet, Entry, Options, Sample
from tools.starter.art import Sprites, load_sprites
from tools.starter.scenes import compose, evaluation_recipe, pictures
from tools.starter.styles import VALIDATION_STYLE

SCENES = 1000
# The numbers of stickers of a scene and the seed of the first one, by split. No other program uses
# these seeds: neither training nor `make starter-eval`.
SPLITS = {"several": ((2, 3), 5_000_000), "single": ((1,), 6_000_000)}


@register_data_set
class Scenes(DataSet):
    """Scenes in the art style that training never saw, at the folder of the rendered art.

    A class is a name that the model knows, whether or not a scene shows it.
    """

    kind = "scenes"
    title = "The built-in model's scenes"
    layout = "sprites.json and sprites.npy, as `python -m tools.starter art` writes them"
    provides = frozenset({"class", "masks", "boxes"})

    def __init__(self, path: Path, options: Options) -> None:
        """See :class:`DataSet`; the splits are those of :data:`SPLITS`."""
        if options.split not in SPLITS:
            raise DataSetError(f"The splits are {', '.join(SPLITS)}.", field="split")
        self.index = (require(path / "sprites.json", "the table of the rendered art"),)
        self._sprites = load_sprites(path)
        self._counts, self._seed = SPLITS[options.split]
        self.classes = [concept.name for concept in self._sprites.concepts]

    def __len__(self) -> int:
        """See :class:`DataSet`."""
        return SCENES

    def entries(self) -> Iterator[Entry]:
        """See :class:`DataSet`."""
        for number in range(len(self)):
            seed = self._seed + number
            yield Entry(str(seed), (), partial(_sample, self._sprites, self._counts, seed))


def _sample(sprites: Sprites, counts: tuple[int, ...], seed: int) -> Sample:
    scene = compose(sprites, {VALIDATION_STYLE: 1.0}, evaluation_recipe(counts), seed, 1)
    (picture,) = pictures(scene)
    shown = zip(scene.concepts[0].tolist(), scene.masks[0].numpy(), strict=True)
    return Sample(
        picture,
        tuple(
            Annotation(sprites.concepts[concept].name, concept, mask=mask)
            for concept, mask in shown
            # A sticker may be hidden by later ones.
            if concept >= 0 and mask.any()
        ),
    )
