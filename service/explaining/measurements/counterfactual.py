"""`output.counterfactual`."""

from legrad_engine.measurements.counterfactual import Counterfactual
from service.explaining.command import ExplainInputs
from service.explaining.measurements.registry import Option, register


def _read(inputs: ExplainInputs) -> Counterfactual | None:
    asked = inputs.output.counterfactual
    if asked is None:
        return None
    given = None if asked.regions == "warmest" else tuple(box.edges for box in asked.regions)
    return Counterfactual(given, asked.change)


register(
    Option(
        name=Counterfactual.name,
        field="output.counterfactual",
        read=_read,
        cheaper="give regions in place of the warmest ones, which need a pass for each target, or "
        "ask for fewer targets or a smaller size",
    )
)
