"""Faithfulness: how a picture's score follows the pixels that its map calls important."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from legrad_engine.evaluation.baselines import generator_of, random_map
from legrad_engine.evaluation.metrics.faithfulness import (
    ROAD_NOISE,
    ROAD_SHARES,
    NeighbourMeans,
    blur,
    road,
)
from legrad_engine.evaluation.metrics.perturbation import area, first, order_of
from legrad_engine.evaluation.metrics.saco import saco, saliency_groups
from legrad_engine.evaluation.protocols.base import (
    Better,
    Figure,
    Protocol,
    Record,
    enlarged,
    mean,
)
from legrad_engine.evaluation.registry import register_protocol
from legrad_engine.evaluation.subject import Batch, Case, Subject
from legrad_engine.images.inputs import PreparedImage

CURVE_SHARES = tuple(step / 10 for step in range(11))
SCORES = ("probability", "cosine")
_FIGURES: tuple[tuple[str, Better], ...] = (
    ("deletion", "lower"),
    ("insertion", "higher"),
    ("ROAD", "higher"),
    ("SaCo", "higher"),
)

Pixels = NDArray[np.float32]
Scorer = Callable[[Sequence[Pixels]], NDArray[np.floating]]
"""Scores inputs: [inputs, scores], one column for each of the names of scores."""


@register_protocol
class Faithfulness(Protocol):
    """Insertion, deletion, ROAD and SaCo, each beside a random order."""

    name = "faithfulness"
    title = "Faithfulness"
    conventions = (
        "The score is the probability of the explained class among all classes of the data set, or "
        "its cosine; the maps are of the annotated classes.",
        "Pixels of the model's input are ranked by the bilinearly interpolated map, and changed "
        "after normalisation, in steps of a tenth. The mean colour is that of the model's "
        "preprocessing, or ImageNet's for a model that states none.",
        "Deletion: highest pixels first turn to the mean colour. Insertion: they replace a blur "
        "(Gaussian of sigma 5, 11 x 11 pixels). Both are areas by trapezoid over 0 to 1.",
        "ROAD: 10 to 90 percent are imputed by noisy linear imputation (direct neighbours 1/6, "
        "diagonal ones 1/12, noise 0.01), least and most relevant first; half the difference of "
        "the mean scores.",
        "SaCo: 10 groups of equal size by saliency, each alone turned to the mean colour; -1 to 1.",
        "The random order is that of noise over the patch grid, interpolated like a map.",
    )
    needs = frozenset({"class", "masks", "boxes", "points"})
    compares_classes = True

    def measure(self, batch: Batch, method: str) -> Sequence[Record]:
        """See :class:`Protocol`."""
        records = []
        neutral = neutral_of(batch.subject)
        for case, maps in zip(batch.cases, batch.maps(method), strict=True):
            heatmaps = enlarged(maps, case.prepared.geometry)
            pairs = []
            for heatmap, annotation in zip(heatmaps, case.sample.annotations, strict=True):
                generator = generator_of(case.key, str(annotation.index), self.name)
                noise = random_map(case.prepared.geometry.grid, generator)[np.newaxis]
                baseline = enlarged(noise, case.prepared.geometry)[0]
                score = scorer(batch.subject, case, annotation.index)
                pixels = content_of(batch.subject, case)
                pairs.append(
                    {
                        "map": faithfulness(pixels, heatmap, score, generator, neutral),
                        "random": faithfulness(pixels, baseline, score, generator, neutral),
                    }
                )
            records.append({"pairs": pairs})
        return records

    def summarize(self, records: Iterable[Record]) -> list[Figure]:
        """See :class:`Protocol`."""
        pairs = [pair for record in records for pair in record["pairs"]]
        figures = []
        for each in comparisons(pairs, _FIGURES):
            figures += [
                Figure(each.title, each.own, each.better),
                Figure(f"{each.title}, random order", each.random, None),
                Figure(f"{each.title}, less random", each.gain, each.better),
            ]
        return [*figures, Figure("pairs", float(len(pairs)), None, percent=False)]


class Comparison(NamedTuple):
    """One figure of the maps beside that of a random order, averaged over all pairs.

    Attributes:
        title: name of the figure and of the score.
        better: which values are good.
        own: mean of the maps; None without pairs.
        random: mean of the random order.
        gain: their difference.
    """

    title: str
    better: Better
    own: float | None
    random: float | None
    gain: float | None


def comparisons(
    pairs: Sequence[Record], figures: Sequence[tuple[str, Better]]
) -> Iterator[Comparison]:
    """Average the figures of maps and of the random order.

    Args:
        pairs: each with figures by side (`map` or `random`), score and name.
        figures: names of the figures, and which values are good.
    """
    for score in SCORES:
        for name, better in figures:
            own, random = (
                mean(pair[side][score][name] for pair in pairs) for side in ("map", "random")
            )
            gain = None if own is None or random is None else own - random
            yield Comparison(f"{name}, {score}", better, own, random, gain)


def faithfulness(
    pixels: Pixels,
    heatmap: NDArray[np.floating],
    score: Scorer,
    generator: np.random.Generator,
    neutral: Pixels,
) -> dict[str, dict[str, float | None]]:
    """Measure one order of pixels.

    Args:
        pixels: [3, height, width], normalised.
        heatmap: [height, width].
        score: scores changed pixels.
        generator: of the noise of ROAD.
        neutral: from :func:`neutral_of`.

    Returns:
        Figures by the name of the score, then by their own.
    """
    shape = (heatmap.shape[0], heatmap.shape[1])
    order = order_of(heatmap)
    inputs = [replaced(pixels, first(order, share, shape), neutral) for share in CURVE_SHARES]
    blurred = blur(pixels)
    inputs += [replaced(blurred, first(order, share, shape), pixels) for share in CURVE_SHARES]
    imputer = NeighbourMeans(shape)
    for one_way in (order[::-1], order):
        inputs += [
            imputer.fill(pixels, first(one_way, share, shape), ROAD_NOISE, generator)
            for share in ROAD_SHARES
        ]
    groups = saliency_groups(order)
    for group in groups:
        selected = np.zeros(order.size, np.bool_)
        selected[group] = True
        inputs.append(replaced(pixels, selected.reshape(shape), neutral))
    saliencies = [float(heatmap.flat[group].mean(dtype=np.float64)) for group in groups]
    ends = np.cumsum([len(CURVE_SHARES)] * 2 + [len(ROAD_SHARES)] * 2)
    found: dict[str, dict[str, float | None]] = {}
    for name, column in zip(SCORES, score(inputs).T, strict=True):
        values = column.astype(np.float64)
        deleted, inserted, least, most, grouped = (part.tolist() for part in np.split(values, ends))
        found[name] = {
            "deletion": area(CURVE_SHARES, deleted),
            "insertion": area(CURVE_SHARES, inserted),
            "ROAD": road(least, most),
            "SaCo": saco(saliencies, [deleted[0] - value for value in grouped]),
        }
    return found


def replaced(pixels: Pixels, selected: NDArray[np.bool_], by: Pixels) -> Pixels:
    """Replace selected pixels by a colour ``[3, 1, 1]`` or by those of another picture."""
    return np.where(selected, by, pixels)


def neutral_of(subject: Subject) -> Pixels:
    """Return the normalised mean colour, float32 ``[3, 1, 1]``."""
    return np.array(subject.explainer.preprocessing.neutral, np.float32).reshape(3, 1, 1)


def content_of(subject: Subject, case: Case) -> Pixels:
    """Return the normalised pixels of the picture in the input, without padding."""
    left, top, right, bottom = case.prepared.geometry.content_box
    whole = subject.explainer.input_of([case.prepared])[0].float().cpu().numpy()
    return np.ascontiguousarray(whole[:, top:bottom, left:right])


def scorer(subject: Subject, case: Case, index: int) -> Scorer:
    """Make the function that scores changed contents of a picture for a class of the data set."""
    geometry = case.prepared.geometry
    left, top, right, bottom = geometry.content_box
    whole: Any = subject.explainer.input_of([case.prepared])[0].float().cpu().numpy()

    def score(contents: Sequence[Pixels]) -> NDArray[np.floating]:
        images = []
        for content in contents:
            pixels = whole.copy()
            pixels[:, top:bottom, left:right] = content
            images.append(PreparedImage(pixels, geometry))
        features = subject.features(images)
        scores = subject.probabilities(features)[:, index], subject.cosines(features)[:, index]
        return torch.stack(scores, 1).cpu().numpy()

    return score
