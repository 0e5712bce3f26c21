"""How far a heatmap can be trusted, as the service measures it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """How the map of a target agrees with others. Correlations are of ranks, -1 to 1.

    Attributes:
        blocks: mean correlation between the maps of the explained blocks.
        neutral: correlation with the map of a neutral prompt.
        others: highest correlation with the map of another target.
        positive_share: share of positive values in the gradient behind the map, 0 to 1.
        margin: similarity less the highest of another target.
        neutral_margin: similarity less that of the neutral prompt.
    """

    blocks: float | None
    neutral: float | None
    others: float | None
    positive_share: float | None
    margin: float | None
    neutral_margin: float | None


@dataclass(frozen=True)
class Perturbation:
    """Loss of the score without some of the patches, and agreement with a mirrored picture.

    Attributes:
        score: the score that is followed, ``"similarity"`` or ``"probability"``.
        removal: how patches are removed: ``"dropped"`` or ``"masked"``.
        warmest: score lost without the warmest fifth of the patches.
        coldest: score lost without the coldest fifth.
        random: score lost without a random fifth.
        flip_agreement: rank correlation with the map of the mirrored picture.
    """

    score: str
    removal: str
    warmest: float
    coldest: float
    random: float
    flip_agreement: float | None


@dataclass(frozen=True)
class Curves:
    """How the score follows the whole order of the map, less a random order.

    Attributes:
        deletion: below 0 is good.
        insertion: above 0 is good.
        saco: salience-guided faithfulness coefficient, -1 to 1.
    """

    deletion: float
    insertion: float
    saco: float | None


@dataclass(frozen=True)
class Trust:
    """How far the map of a target can be trusted.

    Attributes:
        level: ``"free"``, ``"quick"`` or ``"curves"``.
        agreement: agreement with other maps.
        perturbation: the score without some patches, with ``"quick"`` and ``"curves"``.
        curves: the score along the whole order, with ``"curves"``.
    """

    level: str
    agreement: Agreement
    perturbation: Perturbation | None = None
    curves: Curves | None = None
