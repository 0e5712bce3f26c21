"""Presence calibrations of the models of tests."""

from pathlib import Path

from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.reference import ModelReference
from legrad_engine.presence import PresenceCalibration


def write_calibration(file: Path, model: str, slope: float = 12.0) -> PresenceCalibration:
    """Write a calibration that belongs to the weights of a local model, and return it."""
    identity = ModelIdentity.of(ModelReference.parse(model))
    assert identity is not None
    return write_calibration_of(file, identity.weights, slope)


def write_calibration_of(file: Path, weights: str, slope: float = 12.0) -> PresenceCalibration:
    """Write a calibration that belongs to these weights, and return it."""
    made = PresenceCalibration(slope, -3.0, 40, 60, 0.1, 0.02, "a test", weights)
    made.write(file)
    return made
