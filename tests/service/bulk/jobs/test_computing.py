"""Listed pictures become rows: read ahead, halved where memory is short, with reasons."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from legrad_engine import Explainer, Explanation
from legrad_engine.images.fits import Fit
from legrad_engine.presence import PresenceCalibration
from service.bulk.jobs.computing import ListedExplainer
from service.bulk.jobs.listed import identified
from service.bulk.jobs.listing import list_input
from service.bulk.jobs.rows import MapType, to_table
from service.bulk.questions import Question
from tests.support.calibrations import write_calibration
from tests.support.pictures import encoded, picture

PROMPTS = ("a cat", "a dog")


@pytest.fixture(scope="module")
def explainer(tiny_model: str) -> Explainer:
    return Explainer.load(tiny_model)


def pictures(folder: Path, number: int) -> list[object]:
    for index in range(number):
        size = (90 + 10 * (index % 3), 60)
        (folder / f"{index}.png").write_bytes(encoded(picture(*size, seed=index), "PNG"))
    found = list_input(str(folder), str(folder / "out")).pictures
    return list(identified(found, "question").values())


def listed_explainer(
    explainer: Explainer,
    batch: int,
    maps: MapType = "float32",
    calibration: PresenceCalibration | None = None,
    fit: Fit = "native",
) -> ListedExplainer:
    question = Question("tiny", PROMPTS, fit=fit)
    return ListedExplainer(explainer, question, batch, maps, calibration)


def test_batches_of_mixed_sizes_give_the_rows_of_single_pictures(
    explainer: Explainer, tmp_path: Path
) -> None:
    listed = pictures(tmp_path, 7)
    alone = listed_explainer(explainer, 1).explain(listed).rows  # type: ignore[arg-type]
    found = listed_explainer(explainer, 3).explain(listed).rows  # type: ignore[arg-type]
    by_id = {row["id"]: row for row in found}
    assert len(by_id) == len(alone) == 7
    for row in alone:
        for single, batched in zip(row["targets"], by_id[row["id"]]["targets"], strict=True):
            np.testing.assert_allclose(batched["map"], single["map"], rtol=1e-3, atol=1e-7)


def test_a_batch_that_exceeds_memory_is_halved(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = pictures(tmp_path, 6)
    trace, sizes = Explainer.trace, []

    def small(self: Explainer, images: list[object], **options: object) -> object:
        sizes.append(len(images))
        if len(images) > 1:
            raise MemoryError
        return trace(self, images, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Explainer, "trace", small)
    outcome = listed_explainer(explainer, 6).explain(listed)  # type: ignore[arg-type]
    assert len(outcome.rows) == 6
    assert all(row.get("error") is None for row in outcome.rows)
    assert max(sizes) > 1


def test_pictures_without_a_row_say_why(explainer: Explainer, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    listed = pictures(tmp_path, 2)
    (tmp_path / "0.png").unlink()
    outcome = listed_explainer(explainer, 2).explain(listed)  # type: ignore[arg-type]
    assert {row.get("error_code") for row in outcome.rows} == {None, "image-decode-failed"}
    assert list(outcome.failures.values()) == ["The file is no longer there."]


@pytest.mark.parametrize("maps", ["float16", "float32"])
def test_rows_fit_the_schema(explainer: Explainer, tmp_path: Path, maps: MapType) -> None:
    listed = pictures(tmp_path, 1)
    outcome = listed_explainer(explainer, 1, maps).explain(listed)  # type: ignore[arg-type]
    table = to_table(outcome.rows, maps)
    assert table.schema.metadata == {b"legrad.bulk.schema": b"2"}
    (row,) = table.to_pylist()
    assert [each["target"] for each in row["targets"]] == list(PROMPTS)
    for target in row["targets"]:
        assert len(target["map"]) == row["grid_rows"] * row["grid_columns"]
        assert target["presence"] is None
        largest = np.max(target["map"]) * target["map_scale"]
        assert largest == pytest.approx(target["peak"], rel=1e-3)
        assert (target["peak_x"], target["peak_y"]) < (row["width"], row["height"])


def test_half_precision_keeps_the_digits_of_small_maps(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attribute, scale = Explainer.launch_attribution, 1e-7

    class Small:
        def __init__(self, pending: Any) -> None:
            self.done, self._pending = True, pending

        def finish(self) -> list[Explanation]:
            return [replace(each, maps=scale * each.maps) for each in self._pending.finish()]

    def small(*arguments: Any) -> Any:
        return Small(attribute(*arguments))

    monkeypatch.setattr(Explainer, "launch_attribution", small)
    listed = pictures(tmp_path, 1)
    kinds: tuple[MapType, ...] = ("float32", "float16")
    tables = [
        to_table(listed_explainer(explainer, 1, kind).explain(listed).rows, kind)  # type: ignore[arg-type]
        for kind in kinds
    ]
    (exact,), (half,) = (table.to_pylist() for table in tables)
    for raw, rounded in zip(exact["targets"], half["targets"], strict=True):
        assert raw["map_scale"] == 1
        assert raw["peak"] < 1e-6
        values = np.array(rounded["map"], np.float32) * rounded["map_scale"]
        np.testing.assert_allclose(values, raw["map"], rtol=1e-3, atol=1e-6 * raw["peak"])


@pytest.mark.parametrize("fit", ["squash", "native"])
def test_rows_have_the_presence_of_a_calibration_for_the_usual_input(
    explainer: Explainer, tiny_model: str, tmp_path: Path, fit: Fit
) -> None:
    listed = pictures(tmp_path, 2)
    made = write_calibration(tmp_path / "presence.json", tiny_model)
    outcome = listed_explainer(explainer, 2, calibration=made, fit=fit).explain(listed)  # type: ignore[arg-type]
    for row in to_table(outcome.rows, "float32").to_pylist():
        for target in row["targets"]:
            if fit == "squash":
                expected = made.probability(target["similarity"])
                assert target["presence"] == pytest.approx(expected, rel=1e-5)
            else:
                assert target["presence"] is None
