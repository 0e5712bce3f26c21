"""`output.trust`."""

from legrad_engine.measurements.trust.measurement import Trust
from service.explaining.command import ExplainInputs
from service.explaining.measurements.registry import Option, register


def _read(inputs: ExplainInputs) -> Trust | None:
    level = inputs.output.trust
    return None if level is None else Trust(level)


register(
    Option(
        name=Trust.name,
        field="output.trust",
        read=_read,
        cheaper="ask for trust 'quick' or 'free', or for fewer targets, images or a smaller size",
    )
)
