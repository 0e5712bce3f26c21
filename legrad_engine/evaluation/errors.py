"""Errors of evaluations."""

from legrad_engine.errors import LegradError


class DataSetError(LegradError):
    """The data set is not there, is not in its published form, or does not fit the protocol."""

    code = "invalid-data-set"


class SampleError(LegradError):
    """One sample of a data set cannot be used; the others can."""

    code = "damaged-sample"
