"""Base of the results of measurements."""

from pydantic import ConfigDict

from service.schemas.base import Contract


class Result(Contract):
    """A result: it takes its fields from the engine's dataclass with the same names."""

    model_config = ConfigDict(from_attributes=True)
