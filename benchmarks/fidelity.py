"""Fidelity of fast decoding: maps and scores of example photographs against exact decoding."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from benchmarks.report import Row
from legrad_engine import Explainer, Explanation
from legrad_engine.images.decoding import decode
from legrad_engine.images.fits import Fit
from legrad_engine.images.inputs import PreparedImage
from service.pictures.decoding import decode_picture
from service.settings.values import DecodingName, PictureRules

PHOTOGRAPHS = ("astronaut.jpg", "cat.jpg", "coffee.webp", "photographer.png", "rocket.jpg")
PROMPTS = ("a cat", "a person", "a cup of coffee", "the sky")
# The examples are small; a camera's pictures have a few thousand pixels a side.
SCALES = (1, 4)
# One pixel more than a multiple of 2, 4 and 8: most of the last pixel at that part of the size lies
# outside the picture.
ODD_SIZES = ((2049, 849), (4097, 1697), (8193, 3393))
ORIENTATIONS = tuple(range(1, 9))
STRIPS = ((17, 5000), (5000, 17), (97, 6001), (6001, 97))
FITS: tuple[Fit, ...] = ("squash", "pad", "native")
_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_QUALITY = 92


@dataclass(frozen=True, slots=True)
class Case:
    """A photograph to compare.

    Attributes:
        name: the example.
        size: its (width, height) as stored; None for a number of times its own.
        scale: that number.
        orientation: its orientation in EXIF.
        fit: how it is fitted to the model.
    """

    name: str
    size: tuple[int, int] | None = None
    scale: int = 1
    orientation: int = 1
    fit: Fit = "squash"

    def __str__(self) -> str:
        size = f"x {self.scale}" if self.size is None else f"{self.size[0]} x {self.size[1]}"
        return f"{self.name} {size}, orientation {self.orientation}, {self.fit}"


@dataclass(frozen=True, slots=True)
class Promise:
    """The least fidelity of some photographs.

    Attributes:
        cases: the photographs.
        share: the part of them for which the promise is made.
        correlation: the lowest correlation of maps.
        difference: the largest difference of scores.
    """

    cases: Sequence[Case]
    share: float
    correlation: float
    difference: float


# The built-in model magnifies single levels of 255: rounding its input once, where Pillow rounds
# after each of two steps, changes the maps of the turned photographs as much as fast decoding does.
PROMISES = {
    "as they are and enlarged": Promise(
        [Case(name, scale=scale) for name, scale in product(PHOTOGRAPHS, SCALES)],
        1.0,
        0.9995,
        0.001,
    ),
    "strips": Promise(
        [Case(name, size, fit=fit) for name, size, fit in product(PHOTOGRAPHS, STRIPS, FITS)],
        1.0,
        0.9995,
        0.001,
    ),
    "of odd sizes, turned": Promise(
        [
            Case(name, size, orientation=orientation)
            for name, size, orientation in product(PHOTOGRAPHS, ODD_SIZES, ORIENTATIONS)
        ],
        0.95,
        0.999,
        0.003,
    ),
}


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Agreement with exact decoding for one picture.

    Attributes:
        correlation: the lowest correlation of the maps of a prompt.
        difference: the largest difference of the scores of a prompt.
    """

    correlation: float
    difference: float

    @classmethod
    def of(cls, found: Explanation, exact: Explanation) -> "Fidelity":
        """Compare the explanations of a picture."""
        return cls(
            min(
                float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
                for one, other in zip(found.maps, exact.maps, strict=True)
            ),
            float(np.abs(found.similarities - exact.similarities).max()),
        )


def measure() -> list[Row]:
    """Compare both ways of decoding with the built-in model."""
    explainer = Explainer.load("starter")
    return [
        row
        for name, promise in PROMISES.items()
        for row in _rows(
            name,
            promise,
            [compare(explainer, case) for case in promise.cases],
            [compare_rounding(explainer, case) for case in promise.cases],
        )
    ]


def _rows(
    name: str, promise: Promise, found: Sequence[Fidelity], rounded: Sequence[Fidelity]
) -> list[Row]:
    photographs = f"{promise.share:.0%} of the photographs {name}"
    correlations = [each.correlation for each in found]
    differences = [each.difference for each in found]
    names = list(map(str, promise.cases))
    return [
        Row(
            f"fast / exact decoding, lowest correlation of maps, {photographs}",
            float(np.quantile(correlations, 1 - promise.share)),
            promise.correlation,
            bound="at least",
            floor=float(np.quantile([each.correlation for each in rounded], 1 - promise.share)),
            unit="correlation",
            details=dict(zip(names, correlations, strict=True)),
        ),
        Row(
            f"fast - exact decoding, largest difference of scores, {photographs}",
            float(np.quantile(differences, promise.share)),
            promise.difference,
            floor=float(np.quantile([each.difference for each in rounded], promise.share)),
            unit="similarity",
            details=dict(zip(names, differences, strict=True)),
        ),
    ]


def photograph(case: Case) -> bytes:
    """Return a case's photograph as a JPEG file."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = case.orientation
    buffer = io.BytesIO()
    _enlarged(case.name, case.size, case.scale).save(buffer, "JPEG", quality=_QUALITY, exif=exif)
    return buffer.getvalue()


def compare(explainer: Explainer, case: Case) -> Fidelity:
    """Compare fast decoding with exact decoding."""
    encoded = photograph(case)
    fast, exact = (
        _explained(explainer, _prepared(explainer, encoded, decoding, case.fit))
        for decoding in ("fast", "exact")
    )
    return Fidelity.of(fast, exact)


def compare_rounding(explainer: Explainer, case: Case) -> Fidelity:
    """Compare exact decoding whose resized values are rounded once with that of Pillow."""
    encoded = photograph(case)
    exact = _prepared(explainer, encoded, "exact", case.fit)
    once = PreparedImage(_rounded_once(decode(encoded), exact.pixels.shape[1::-1]), exact.geometry)
    return Fidelity.of(_explained(explainer, once), _explained(explainer, exact))


# The orientations of a photograph follow each other.
@lru_cache(maxsize=1)
def _enlarged(name: str, size: tuple[int, int] | None, scale: int) -> Image.Image:
    picture = decode(_EXAMPLES / name)
    size = size or (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _prepared(
    explainer: Explainer, encoded: bytes, decoding: DecodingName, fit: Fit
) -> PreparedImage:
    rules = PictureRules(64_000_000, decoding=decoding)
    decoded = decode_picture(encoded, rules, explainer.input_rules(fit=fit), None, None)
    assert decoded.prepared is not None
    return decoded.prepared


def _explained(explainer: Explainer, prepared: PreparedImage) -> Explanation:
    (explained,) = explainer.attribute(explainer.trace([prepared]), PROMPTS)
    return explained


def _rounded_once(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture in floats, and round the values at the end alone."""
    channels = [
        np.asarray(band.convert("F").resize(size, Image.Resampling.BICUBIC))
        for band in picture.split()
    ]
    rounded: NDArray[np.uint8] = np.rint(np.stack(channels, -1)).clip(0, 255).astype(np.uint8)
    return rounded
