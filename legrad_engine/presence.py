"""Presence: the calibrated probability that a picture shows the thing that a text names.

A model's own probabilities are shares among the texts of a request, so one of them is high even if
the picture shows none. Presence maps the cosine of picture and text to a probability by a logistic
curve, fitted on pairs of pictures and texts of which it is known whether the picture shows the
thing (Platt 1999, "Probabilistic outputs for support vector machines"). Loads no torch.
"""

import hashlib
import json
import sys
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from legrad_engine.errors import InvalidOptionError, in_one_line
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.reference import ModelReference
from legrad_engine.models.schemes import STARTER

LEAST_PAIRS = 20
"""Fewest pairs of each kind, with and without the thing, that a calibration is fitted on."""

_STARTER_FILE = Path(__file__).parent / "starter" / "presence.json"
_FORMAT = "legrad-presence-1"
_FOLDS = 5
_BINS = 10
_MOST_STEPS = 100
_CONVERGED = 1e-10
_LARGEST_FILE = 100_000


class PresenceError(InvalidOptionError):
    """A presence calibration cannot be read, cannot be fitted, or is of other weights."""

    code = "invalid-presence-calibration"


@dataclass(frozen=True, slots=True)
class PresenceCalibration:
    """Logistic curve from the cosine of picture and text to a probability.

    Attributes:
        slope: Steepness of the curve, above 0.
        intercept: Logit of the probability at a cosine of 0.
        pairs_with: Number of pairs whose picture shows the thing.
        pairs_without: Number of the other pairs.
        brier: Mean squared error of the probability, on pictures that were left out of the fit.
        calibration_error: Expected calibration error of the same probabilities, over ten bins.
        source: Origin of the pairs, in a few words.
        weights: The weights that computed the cosines, see :class:`ModelIdentity`.
    """

    slope: float
    intercept: float
    pairs_with: int
    pairs_without: int
    brier: float
    calibration_error: float
    source: str
    weights: str

    @property
    def digest(self) -> str:
        """Hash of all fields, in hexadecimal: results with presence belong to it."""
        content = json.dumps(asdict(self)).encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def probability(self, similarity: float) -> float:
        """Return the probability that the picture shows the thing, from the cosine."""
        return float(_logistic(self.slope * similarity + self.intercept))

    def check(self, weights: str | None) -> None:
        """Check that the calibration belongs to the weights of a model.

        Raises:
            PresenceError: it was fitted for others, or it is unknown which the model has.
        """
        if weights != self.weights:
            raise PresenceError(
                f"The presence calibration was fitted for the weights {self.weights}, but the "
                f"model has {weights or 'unknown ones'}: fit it again with legrad calibrate.",
                field="presence",
            )

    def write(self, path: Path) -> None:
        """Write the calibration as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        path.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a calibration that `legrad calibrate` wrote.

        Raises:
            PresenceError: the file cannot be read, or is no such calibration.
        """
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise ValueError("it is too large for a calibration")
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise PresenceError(
                f"{path} cannot be read: {in_one_line(error)}.", field="presence"
            ) from error
        try:
            return cls(**_checked(content))
        except ValueError as error:
            raise PresenceError(
                f"{path} is not a presence calibration: {error}. Make one with legrad calibrate.",
                field="presence",
            ) from error


def built_in(reference: ModelReference) -> PresenceCalibration | None:
    """Return the calibration that ships with a model; None for all but the built-in model."""
    return PresenceCalibration.read(_STARTER_FILE) if reference.name == STARTER else None


def check_counts(shown: ArrayLike, pictures: Sequence[Hashable]) -> tuple[int, int]:
    """Check that there are enough pairs for a calibration, before anything is computed.

    Args:
        shown: bool `[pairs]`, whether the picture shows the thing.
        pictures: `[pairs]` names of the pictures.

    Returns:
        The numbers of pairs with and without the thing.

    Raises:
        PresenceError: there are too few of a kind, or all are of one picture.
    """
    labels = np.asarray(shown, dtype=np.bool_)
    with_it, without = int(labels.sum()), int((~labels).sum())
    if min(with_it, without) < LEAST_PAIRS:
        raise PresenceError(
            f"There are {with_it} pairs of a picture and a text that it shows, and {without} of a "
            f"picture and a text that it does not show: a calibration needs {LEAST_PAIRS} of each.",
            field="data",
        )
    if len(set(pictures)) < 2:
        raise PresenceError(
            "All pairs are of one picture: a calibration needs two or more, because its errors are "
            "measured on pictures that are left out of the fit.",
            field="data",
        )
    return with_it, without


def fit(
    similarities: ArrayLike,
    shown: ArrayLike,
    pictures: Sequence[Hashable],
    *,
    source: str,
    identity: ModelIdentity,
) -> PresenceCalibration:
    """Fit a calibration and measure it on pictures left out of the fit, in five folds.

    Args:
        similarities: `[pairs]` cosines of picture and text.
        shown: bool `[pairs]`, whether the picture shows the thing.
        pictures: `[pairs]` names of the pictures; the pairs of one picture are in one fold.
        source: Origin of the pairs, in a few words.
        identity: The weights that computed the cosines.

    Raises:
        PresenceError: there are too few pairs of a kind, all are of one picture, the cosines are
            not finite, or the cosine does not rise where the thing is shown.
    """
    cosines = np.asarray(similarities, dtype=np.float64)
    labels = np.asarray(shown, dtype=np.bool_)
    with_it, without = check_counts(labels, pictures)
    if not np.isfinite(cosines).all():
        raise PresenceError("The model's similarities are not finite numbers.", field="model")
    slope, intercept = _fit_logistic(cosines, labels)
    if not slope > 0:
        raise PresenceError(
            "The similarity is not larger where the picture shows the thing: the model does not "
            "know these texts, or the table has them the wrong way round.",
            field="data",
        )
    left_out = _left_out_probabilities(cosines, labels, pictures)
    return PresenceCalibration(
        slope=slope,
        intercept=intercept,
        pairs_with=with_it,
        pairs_without=without,
        brier=brier_score(left_out, labels),
        calibration_error=expected_calibration_error(left_out, labels),
        source=source,
        weights=identity.weights,
    )


def brier_score(
    probabilities: NDArray[np.float64],
    shown: NDArray[np.bool_],
    weights: NDArray[np.float64] | None = None,
) -> float:
    """Compute the mean squared error of probabilities (Brier 1950): 0 is best.

    Args:
        probabilities: `[pairs]`.
        shown: bool `[pairs]`, whether the picture shows the thing.
        weights: `[pairs]` weights in the mean; None if all are equal.
    """
    return float(np.average((probabilities - shown) ** 2, weights=weights))


def expected_calibration_error(
    probabilities: NDArray[np.float64],
    shown: NDArray[np.bool_],
    weights: NDArray[np.float64] | None = None,
) -> float:
    """Compute the mean gap of probability and frequency over ten equal bins (Naeini et al. 2015).

    Args:
        probabilities: `[pairs]`.
        shown: bool `[pairs]`, whether the picture shows the thing.
        weights: `[pairs]` weights of the pairs; None if all are equal.

    Returns:
        The gaps of the bins, weighted by their shares of the pairs: 0 is best.
    """
    each = np.ones(len(probabilities)) if weights is None else weights
    bins = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    expected, seen = (
        np.bincount(bins, each * values, minlength=_BINS) for values in (probabilities, shown)
    )
    return float(np.abs(expected - seen).sum() / each.sum())


def _left_out_probabilities(
    cosines: NDArray[np.float64], labels: NDArray[np.bool_], pictures: Sequence[Hashable]
) -> NDArray[np.float64]:
    numbers: dict[Hashable, int] = {}
    fold = np.array([numbers.setdefault(name, len(numbers)) % _FOLDS for name in pictures])
    found = np.empty_like(cosines)
    for left_out in np.unique(fold):
        tested = fold == left_out
        slope, intercept = _fit_logistic(cosines[~tested], labels[~tested])
        found[tested] = _logistic(slope * cosines[tested] + intercept)
    return found


def _fit_logistic(cosines: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Fit slope and intercept by Newton's method.

    Labels are softened by the number of their kind (Platt 1999, section 2.2), so that a cosine that
    separates all pairs still has a finite slope.
    """
    count_with, count = int(labels.sum()), len(labels)
    wanted = np.where(labels, (count_with + 1) / (count_with + 2), 1 / (count - count_with + 2))
    # Standardised, so that the two parameters are of one size and nearly independent.
    mean, scale = float(cosines.mean()), float(cosines.std()) or 1.0
    inputs = np.stack([(cosines - mean) / scale, np.ones(count)], axis=1)
    parameters = np.zeros(2)
    for _ in range(_MOST_STEPS):
        predicted = _logistic(inputs @ parameters)
        gradient = inputs.T @ (predicted - wanted)
        curvature = (inputs.T * (predicted * (1 - predicted))) @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Shortened, because a full step may overshoot where the curve is flat.
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        parameters -= step
        if float(np.abs(step).max()) < _CONVERGED:
            break
    slope = float(parameters[0]) / scale
    return slope, float(parameters[1]) - slope * mean


def _logistic(values: Any) -> Any:
    # By tanh, which does not overflow.
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(values, dtype=np.float64)))


def _checked(content: object) -> dict[str, Any]:
    """Check the content of a file and return the calibration's fields.

    Raises:
        ValueError: it is of another form; the message names the first fault.
    """
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f'its field "format" is not "{_FORMAT}"')
    found: dict[str, Any] = {}
    for each in fields(PresenceCalibration):
        value: Any = content.get(each.name)
        # bool is an int in Python, but not in JSON.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if each.name in ("source", "weights"):
            fits = isinstance(value, str) and bool(value)
        elif each.name in ("pairs_with", "pairs_without"):
            fits = isinstance(value, int) and number and value >= LEAST_PAIRS
        elif each.name in ("brier", "calibration_error"):
            fits = number and 0 <= value <= 1
        else:
            # An integer of JSON may be larger than any float.
            fits = number and abs(value) <= sys.float_info.max
        if not fits:
            raise ValueError(f'its field "{each.name}" is missing or has a wrong value')
        found[each.name] = value
    if found["slope"] <= 0:
        raise ValueError('its field "slope" must be above 0')
    return found
