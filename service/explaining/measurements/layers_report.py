"""`output.layers_report`."""

from legrad_engine.measurements.layers_report import LayersReportMeasurement
from service.explaining.command import ExplainInputs
from service.explaining.measurements.registry import Option, register

_ADDITIVE = "textspan"


def _read(inputs: ExplainInputs) -> LayersReportMeasurement | None:
    if not inputs.output.layers_report:
        return None
    return LayersReportMeasurement(terms=inputs.options.method == _ADDITIVE)


register(
    Option(
        name=LayersReportMeasurement.name,
        field="output.layers_report",
        read=_read,
        cheaper="ask about fewer images at once, or for a smaller size",
    )
)
