"""The command refuses what cannot work before it starts Ray, and says what to do."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from legrad_engine import Explainer
from service.cli import app
from tests.support.calibrations import write_calibration
from tests.support.pictures import encoded, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encoded(picture(), "PNG"))
    return tmp_path / "photos"


def bulk(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bulk", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a cat"], "say where the rows go"),
        (["-o", "out"], "give a prompt"),
        (["a cat", "-o", "out", "--prompts", "absent.txt"], "absent.txt"),
        (["a cat", "-o", "xyz://bucket"], "use a scheme that fsspec knows"),
        (["a cat", "-o", "out", "--model", "absent"], "does not say which weights"),
        (["a cat", "-o", "out", "--layers", "some"], "layers must be a number or 'all'"),
        (["a cat", "-o", "out", "--batch", "0"], "--batch"),
        (["a cat", "-o", "out", "--maps", "float64"], "--maps"),
        (["a cat", "-o", "out", "--column", "image"], "--column is for Parquet files"),
        (["a cat", "-o", "out", "--heads", "each"], "No such option: --heads"),
        (["a cat", "-o", "out", "--presence", "absent.json"], "absent.json cannot be read"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    photos: Path, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    done = bulk(photos, *arguments)
    assert done.exit_code == 2
    assert told in done.output
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_an_option_that_the_model_has_not_is_refused(photos: Path, tiny_model: str) -> None:
    options = ["-o", photos.parent / "out", "--model", tiny_model]
    assert "layers" in bulk(photos, "a cat", *options, "--layers", "99").output
    assert bulk(photos, "a cat", *options, "--size", "17").exit_code == 2
    assert not (photos.parent / "out").exists()


def test_a_presence_calibration_of_other_weights_is_refused(
    photos: Path, tmp_path: Path, tiny_model: str
) -> None:
    write_calibration(tmp_path / "presence.json", "starter")
    options = ["-o", tmp_path / "out", "--model", tiny_model]
    done = bulk(photos, "a cat", *options, "--presence", tmp_path / "presence.json")
    assert done.exit_code == 2
    assert "fitted for the weights" in done.output
    assert not (tmp_path / "out").exists()


def test_maps_of_single_heads_are_refused(photos: Path) -> None:
    from service.bulk.jobs.errors import JobError
    from service.bulk.jobs.run import Job, run
    from service.bulk.questions import Question

    question = Question("starter", ("a cat",), "raw-attention", heads="each")
    job = Job(str(photos), str(photos.parent / "out"), question)

    def load(question: Question) -> Explainer:
        raise AssertionError("The model is not needed to refuse the question.")

    with pytest.raises(JobError, match="one map for each prompt: use heads='mean'"):
        run(job, load)
    assert not (photos.parent / "out").exists()


def test_a_missing_package_is_named_with_its_extra(
    photos: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "service.bulk.jobs.ray_job", raising=False)
    done = bulk(photos, "a cat", "-o", photos.parent / "out", "--model", tiny_model)
    assert done.exit_code == 2
    assert "pip install 'legrad-service[ray]'" in done.stderr


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "No Ray cluster answers"),
        ("ray://127.0.0.1:10001", "HOST:6379"),
        ("cluster", "should be HOST:PORT or auto"),
        ("host:port", "should be HOST:PORT or auto"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address: str, told: str) -> None:
    from service.bulk.jobs import ray_job
    from service.bulk.jobs.errors import JobError

    with pytest.raises(JobError, match=told):
        ray_job._probe(address)
