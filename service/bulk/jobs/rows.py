"""The output of a job: one row for each picture, in a versioned Parquet schema."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from legrad_engine.images.statistics import summarize_all
from service.bulk.jobs.listed import Listed

if TYPE_CHECKING:
    # It loads torch, which the processes that list, filter, count and write do not need.
    from service.bulk.batches import Explained

VERSION = 2
"""Number of the schema; a change that readers notice raises it."""

MapType = Literal["float16", "float32"]

_MAPS: dict[str, tuple[pa.DataType, type[np.floating]]] = {
    "float16": (pa.float16(), np.float16),
    "float32": (pa.float32(), np.float32),
}


def schema_of(maps: MapType) -> pa.Schema:
    """Return the schema of a job's rows, see ``docs/bulk.md``.

    Args:
        maps: type of the maps' values.
    """
    target = pa.struct(
        [
            pa.field("target", pa.string(), nullable=False),
            pa.field("similarity", pa.float32(), nullable=False),
            ("probability", pa.float32()),
            ("presence", pa.float32()),
            pa.field("map", pa.list_(_MAPS[maps][0]), nullable=False),
            pa.field("map_scale", pa.float32(), nullable=False),
            pa.field("peak", pa.float32(), nullable=False),
            pa.field("peak_x", pa.int32(), nullable=False),
            pa.field("peak_y", pa.int32(), nullable=False),
            pa.field("mean", pa.float32(), nullable=False),
            pa.field("entropy", pa.float32(), nullable=False),
            pa.field("border_mass", pa.float32(), nullable=False),
        ]
    )
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("etag", pa.string(), nullable=False),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("grid_rows", pa.int32()),
            ("grid_columns", pa.int32()),
            ("targets", pa.list_(target)),
            ("error", pa.string()),
            ("error_code", pa.string()),
        ],
        metadata={"legrad.bulk.schema": str(VERSION)},
    )


def explained_row(
    listed: Listed, prompts: Sequence[str], explained: "Explained", maps: MapType
) -> dict[str, Any]:
    """Make the row of an explained picture."""
    explanation = explained.explanation
    geometry = explanation.geometry
    width, height = geometry.image_size
    rows, columns = explanation.grid
    targets = []
    described = summarize_all(explanation.maps, geometry)
    for index, (prompt, statistics) in enumerate(zip(prompts, described, strict=True)):
        values, scale = _scaled(explanation.maps[index], maps)
        probability = float(explanation.probabilities[index])
        targets.append(
            {
                "target": prompt,
                "similarity": float(explanation.similarities[index]),
                # NaN if the model gives no probability.
                "probability": probability if probability == probability else None,
                "presence": explained.presence[index],
                "map": values,
                "map_scale": scale,
                "peak": statistics.peak,
                "peak_x": statistics.peak_position[0],
                "peak_y": statistics.peak_position[1],
                "mean": statistics.mean,
                "entropy": statistics.entropy,
                "border_mass": statistics.border_mass,
            }
        )
    return {
        "id": listed.id,
        "uri": listed.uri,
        "etag": listed.etag,
        "width": width,
        "height": height,
        "grid_rows": rows,
        "grid_columns": columns,
        "targets": targets,
    }


def error_row(listed: Listed, reason: str, code: str) -> dict[str, Any]:
    """Make the row of a picture that has no explanation."""
    row = {"id": listed.id, "uri": listed.uri, "etag": listed.etag}
    return {**row, "error": reason, "error_code": code}


def to_table(rows: Sequence[Mapping[str, Any]], maps: MapType) -> pa.Table:
    """Return rows as a table of :func:`schema_of`."""
    return pa.Table.from_pylist(list(rows), schema=schema_of(maps))


def _scaled(raw: NDArray[np.floating], maps: MapType) -> tuple[NDArray[np.floating], float]:
    """Return the values of a map, and the factor that makes them raw again."""
    scale = 1.0
    if maps == "float16":
        # Raw values are often below a thousandth, where half precision has few digits or none.
        scale = float(np.abs(raw).max()) or 1.0
    return (raw / scale).astype(_MAPS[maps][1]).ravel(), scale
