"""Bulk jobs on a real cluster: every picture has one row, whatever dies meanwhile."""

import base64
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow.dataset as ds
import pyarrow.fs
import pytest
from typer.testing import CliRunner, Result

from legrad_engine import Explainer
from legrad_engine.images.decoding import DEFAULT_MAX_PIXELS
from legrad_engine.models.identity import ModelIdentity
from service.bulk.jobs.output import Output
from service.cli import app
from service.pictures.decoding import decode_picture
from service.settings.values import PictureRules
from tests.support.calibrations import write_calibration
from tests.support.object_store import object_store
from tests.support.pictures import encoded, picture, request_of
from tests.support.ray_jobs import environment, ray_cluster, read_token_again
from tests.support.running_app import RunningApp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROMPTS = ("a cat", "a dog")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster for all tests of this file, beside an object store on loopback."""
    with ExitStack() as held:
        objects = held.enter_context(object_store())
        variables = {**environment(tmp_path_factory.mktemp("packages")), **objects}
        # Called last, once the environment is as before.
        held.callback(read_token_again)
        patch = held.enter_context(pytest.MonkeyPatch.context())
        for name, value in variables.items():
            patch.setenv(name, value)
        for place in reversed(variables["PYTHONPATH"].split(os.pathsep)):
            patch.syspath_prepend(place)
        read_token_again()
        held.enter_context(_records_without_frames())
        address = held.enter_context(ray_cluster(variables))
        from counted_storage import CountedFileSystem

        fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
        yield address


@contextmanager
def _records_without_frames() -> Iterator[None]:
    """Keep no frames in log records, which pytest holds until the end of a test.

    The frames of an error would hold the actor that died; Ray would start it again, and its
    processors would be missing in the rest of the job.
    """
    make = logging.getLogRecordFactory()

    def without_frames(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        record.exc_info = None
        return record

    logging.setLogRecordFactory(without_frames)
    yield
    logging.setLogRecordFactory(make)


def command(cluster: str, model: str, source: object, output: object) -> list[str]:
    options = ["--batch", "1", "--model", model, "--address", cluster, "--device", "cpu"]
    return ["bulk", str(source), *PROMPTS, "-o", str(output), *options]


def bulk(cluster: str, model: str, source: object, output: object, *options: str) -> Result:
    return CliRunner().invoke(app, [*command(cluster, model, source, output), *options])


def rows_of(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ds.dataset(output, partitioning="hive").to_table().to_pylist()
    return found


def names_of(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(row["uri"].rpartition("/")[2] for row in rows)


def write(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        seed = int.from_bytes(name.encode(), "big") % 1000
        (folder / name).write_bytes(encoded(picture(90, 60, seed=seed), "PNG"))


def reads_of(folder: Path) -> Counter[str]:
    log = folder / ".reads"
    return Counter(log.read_text().split()) if log.exists() else Counter()


def test_only_the_processes_that_hold_the_model_load_torch() -> None:
    # Ray's other processes import the module, too: they list, filter, count and write.
    program = "import service.bulk.jobs.ray_job, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_machines_without_processors_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from service.bulk.jobs import ray_job

    nodes = [{"Alive": True, "Resources": {"CPU": number}} for number in (16.0, 12.0, 8.0)]
    nodes += [
        # A head often has none, and Ray then leaves the name out.
        {"Alive": True, "Resources": {"memory": 1e9}},
        {"Alive": True, "Resources": {"CPU": 0.0}},
    ]
    nodes[2]["Alive"] = False
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 28.0})
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda kind: SimpleNamespace(remote=kind))
    with ray_job.connected("auto", None, "cpu") as cluster:
        assert cluster.workers == 2
        assert cluster._cpu == 10


def test_a_process_that_cannot_load_the_model_once_does_not_end_the_job(tmp_path: Path) -> None:
    from ray.data import DataContext

    from service.bulk.jobs import ray_job

    context = DataContext.get_current()
    before = context.max_consecutive_actor_init_deaths
    with ray_job._settings(Output(str(tmp_path), "q1")):
        assert context.max_consecutive_actor_init_deaths == 3
    assert context.max_consecutive_actor_init_deaths == before


def test_poisoned_pictures_become_error_rows_and_the_others_have_the_engines_maps(
    cluster: str, tiny_model: str, tmp_path: Path
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "out"
    good = [f"{number}.png" for number in range(6)]
    write(pictures, *good, "killer.png")
    whole = (pictures / "0.png").read_bytes()
    (pictures / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "empty.png").write_bytes(b"")
    source = f"counted://{pictures}"

    done = bulk(cluster, tiny_model, source, output)

    assert done.exit_code == 0, done.output
    assert "6 explained, 3 failed; 9 rows of 9 pictures" in done.stdout
    rows = rows_of(output)
    bad = ["killer.png", "truncated.png", "empty.png"]
    assert names_of(rows) == Counter([*good, *bad])
    errors = {row["uri"].rpartition("/")[2]: row["error_code"] for row in rows if row["error"]}
    assert errors == {
        "killer.png": "not-computed",
        "truncated.png": "image-decode-failed",
        "empty.png": "image-decode-failed",
    }
    # Four times in a block and twice alone, and not for ever.
    assert reads_of(pictures)["killer.png"] <= 6
    config, _, weights = tiny_model.partition("@")
    explainer = Explainer.load(config, weights)
    with RunningApp(tiny_model) as served:
        for row in (row for row in rows if not row["error"]):
            content = (pictures / row["uri"].rpartition("/")[2]).read_bytes()
            of_engine = _of_engine(explainer, content)
            of_server = _of_server(served, content)
            for index, found in enumerate(row["targets"]):
                stored = np.array(found["map"], np.float32)
                stored = stored.reshape(row["grid_rows"], row["grid_columns"])
                assert found["target"] == PROMPTS[index]
                np.testing.assert_array_equal(stored, of_engine[index])
                np.testing.assert_array_equal(stored, of_server[index])

    # The same command reads only new pictures, and those whose bytes were not at fault.
    before = reads_of(pictures)
    write(pictures, "new.png")
    (pictures / ".open").touch()
    again = bulk(cluster, tiny_model, source, output)
    assert again.exit_code == 0, again.output
    assert "2 explained, 8 done before; 10 rows of 10 pictures" in again.stdout
    assert set(reads_of(pictures) - before) == {"killer.png", "new.png"}
    rows = rows_of(output)
    assert names_of(rows) == Counter([*good, *bad, "new.png"])
    failed = {row["uri"].rpartition("/")[2] for row in rows if row["error"]}
    assert failed == {"truncated.png", "empty.png"}


def _of_engine(explainer: Explainer, content: bytes) -> Any:
    rules = explainer.input_rules()
    prepared = decode_picture(content, PictureRules(DEFAULT_MAX_PIXELS), rules, None, None).prepared
    assert prepared is not None
    (explanation,) = explainer.attribute(explainer.trace([prepared]), list(PROMPTS))
    return explanation.maps


def _of_server(served: RunningApp, content: bytes) -> list[Any]:
    image = base64.b64encode(content).decode()
    body = request_of(image=image, prompts=list(PROMPTS), output={"heatmap": "npy"})
    answer = served.client.post("/explain", json=body)
    assert answer.status_code == 200, answer.text
    targets = answer.json()["images"][0]["targets"]
    return [
        np.load(io.BytesIO(base64.b64decode(each["heatmap"])), allow_pickle=False)
        for each in targets
    ]


def test_after_sigkill_of_the_driver_nothing_is_lost_and_nothing_is_there_twice(
    cluster: str, tiny_model: str, tmp_path: Path
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "out"
    first = [f"a{number:02}.png" for number in range(32)]
    rest = [f"gated{number}.png" for number in range(4)]
    write(pictures, *first, *rest)
    source = f"counted://{pictures}"
    driver = subprocess.Popen(
        [sys.executable, "-m", "service", *command(cluster, tiny_model, source, output)],
        stderr=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stderr is not None
        # Its lines of progress are the clock: the first block is committed, the rest waits.
        try:
            for _ in driver.stderr:
                if list(output.glob("_legrad/*/committed/*[0-9].parquet")):
                    break
        finally:
            driver.kill()
    assert driver.returncode == -signal.SIGKILL
    before = reads_of(pictures)
    (pictures / ".open").touch()

    done = bulk(cluster, tiny_model, source, output)

    assert done.exit_code == 0, done.output
    assert "4 explained, 32 done before; 36 rows of 36 pictures" in done.stdout
    rows = rows_of(output)
    assert names_of(rows) == Counter([*first, *rest])
    assert all(row["error"] is None for row in rows)
    assert set(reads_of(pictures) - before) <= set(rest)


def test_pictures_and_rows_may_be_in_an_object_store(
    cluster: str, tiny_model: str, tmp_path: Path
) -> None:
    write(tmp_path / "pictures", "a.png", "b.png")
    store = fsspec.filesystem("s3", use_listings_cache=False)
    store.mkdir("bucket")
    store.put(f"{tmp_path}/pictures/", "bucket/in/", recursive=True)

    done = bulk(cluster, tiny_model, "s3://bucket/in", "s3://bucket/out")
    assert done.exit_code == 0, done.output
    assert "2 explained; 2 rows of 2 pictures" in done.stdout
    again = bulk(cluster, tiny_model, "s3://bucket/in", "s3://bucket/out")
    assert "0 explained, 2 done before; 2 rows of 2 pictures" in again.stdout
    files = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store))
    rows = ds.dataset("bucket/out", filesystem=files, partitioning="hive").to_table()
    assert sorted(rows["uri"].to_pylist()) == ["s3://bucket/in/a.png", "s3://bucket/in/b.png"]
    assert Output("s3://bucket/out", rows["question"][0].as_py()).ids() == set(
        rows["id"].to_pylist()
    )


def test_rows_of_another_presence_calibration_are_in_a_folder_of_their_own(
    cluster: str, tiny_model: str, tmp_path: Path
) -> None:
    pictures, output, file = tmp_path / "pictures", tmp_path / "out", tmp_path / "presence.json"
    write(pictures, "a.png")
    options = "--presence", str(file)
    made = [write_calibration(file, tiny_model, slope=3.0)]
    for told in ("1 explained; 1 rows of 1", "0 explained, 1 done before; 1 rows of 1"):
        done = bulk(cluster, tiny_model, pictures, output, *options)
        assert told in done.stdout, done.output
    made.append(write_calibration(file, tiny_model, slope=12.0))
    done = bulk(cluster, tiny_model, pictures, output, *options)
    assert "1 explained; 1 rows of 1" in done.stdout, done.output
    records = [json.loads(path.read_text()) for path in output.glob("_legrad/*/job.json")]
    assert sorted(record["presence"]["slope"] for record in records) == [3.0, 12.0]
    first, second = (row["targets"][0] for row in rows_of(output))
    assert first["similarity"] == second["similarity"]
    expected = [calibration.probability(first["similarity"]) for calibration in made]
    found = sorted([first["presence"], second["presence"]])
    assert found == pytest.approx(sorted(expected), rel=1e-5)


def test_a_job_without_a_single_map_ends_with_status_1_at_every_run(
    cluster: str, tiny_model: str, tmp_path: Path
) -> None:
    (tmp_path / "my pictures").mkdir()
    (tmp_path / "my pictures" / "ä 1.png").write_bytes(b"no picture")
    for told in ("0 explained, 1 failed; 1 rows of 1", "0 explained, 1 done before; 1 rows of 1"):
        done = bulk(cluster, tiny_model, tmp_path / "my pictures", tmp_path / "my rows")
        assert done.exit_code == 1, done.output
        assert told in done.stdout
    (row,) = rows_of(tmp_path / "my rows")
    assert row["error_code"] == "image-decode-failed"


def test_a_model_that_a_process_cannot_load_ends_the_job_with_the_reason(
    cluster: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "pictures", "a.png")
    # The question is accepted here, and the cluster's processes find other weights.
    other = ModelIdentity("blake2b:other")
    monkeypatch.setattr(ModelIdentity, "of", lambda *_: None)
    monkeypatch.setattr(ModelIdentity, "of_loaded", lambda *_: other)

    done = bulk(cluster, tiny_model, tmp_path / "pictures", tmp_path / "out")

    assert done.exit_code == 2
    assert "has other weights of tiny than the machine that started the job" in done.stderr
