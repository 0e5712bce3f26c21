"""Everything that a run has found, as values; the page and the JSON file are made of them."""

from dataclasses import dataclass, field
from typing import Literal

from legrad_engine.legrad.switches import Acceleration

Verdict = Literal["met", "missed"]

ONE_TARGET, EIGHT_TARGETS = 1, 8
# Largest time of an explanation over that of a plain forward pass, by number of targets.
OVER_FORWARD = {ONE_TARGET: 1.15, EIGHT_TARGETS: 1.6}
# Smallest rate over HTTP over that of the engine, for pictures of 256 pixels and numbers out.
OVER_ENGINE = 0.8
NUMBERS = "numbers out"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Maps on the device against the CPU in float64.

    Attributes:
        family: architecture family.
        dtype: dtype on the device.
        acceleration: the accelerated parts.
        in_use: those of them that were really used.
        error: largest difference, relative to the largest value of the exact map.
        correlation: smallest correlation of a map with the exact one.
        from_plain: largest difference from the same dtype without acceleration, relative likewise.
    """

    family: str
    dtype: str
    acceleration: Acceleration
    in_use: str
    error: float
    correlation: float
    from_plain: float

    @property
    def verdict(self) -> Verdict:
        """Whether the maps agree as well as this precision allows."""
        if self.dtype == "float32":
            agrees = self.error <= 1e-4 and self.from_plain <= 1e-4
        else:
            agrees = self.correlation >= 0.99 and self.from_plain <= 0.02
        return "met" if agrees else "missed"


@dataclass(frozen=True, slots=True)
class Speed:
    """Times of one model and batch size, in seconds per batch, pixels already on the device.

    Attributes:
        model: architecture.
        dtype: dtype on the device.
        batch: images in a batch.
        forward: the model's own forward pass.
        share_of_peak: of the card's peak, during that pass.
        explained: trace and attribution, maps copied to the CPU, by targets and acceleration.
    """

    model: str
    dtype: str
    batch: int
    forward: float
    share_of_peak: float
    explained: dict[int, dict[Acceleration, float]]

    def ratios(self, targets: int) -> dict[Acceleration, float]:
        """Return the time of an explanation over that of the forward pass, by acceleration."""
        return {mode: seconds / self.forward for mode, seconds in self.explained[targets].items()}


@dataclass(frozen=True, slots=True)
class Serving:
    """The saturated service with some picture processes.

    Attributes:
        processes: picture processes.
        answer: form of the answer.
        output: the wanted output, see :data:`benchmarks.http.OUTPUTS`.
        images_per_second: answered requests of one picture.
        p50: median seconds of an answer.
        p99: 99th percentile of the seconds.
        busy: share of the time that each part of the service was busy, 0 to 1.
    """

    processes: int
    answer: str
    output: str
    images_per_second: float
    p50: float
    p99: float
    busy: dict[str, float]

    @property
    def limit(self) -> str:
        """The part that limits the rate; more clients than the load had may move it."""
        part = max(self.busy, key=lambda name: self.busy[name])
        return part if self.busy[part] >= 0.8 else "none alone"


@dataclass(slots=True)
class Findings:
    """Findings of a run.

    Attributes:
        environment: device, driver, versions.
        agreements: part (a).
        speeds: part (b).
        engine_images_per_second: the best rate of the engine with the served model, pictures
            prepared; None if not measured.
        servings: part (c).
        not_measured: cases for which the time or the memory was not enough, with the reason.
        warnings: warnings of the engine.
    """

    environment: dict[str, object]
    agreements: list[Agreement] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    engine_images_per_second: float | None = None
    servings: list[Serving] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
