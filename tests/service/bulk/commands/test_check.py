"""`legrad check` writes a result by the identity of the weights, and `/models` shows it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from service.cli import app
from service.pool.sanity_checks import file_of, read_check
from tests.support.answers import check_against_contract
from tests.support.running_app import RunningApp
from tests.support.tiny_model import save_model


def checked(model: str, folder: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["check", model, "-o", str(folder), *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_checked_model_tells_it(tiny_model: str, tmp_path: Path) -> None:
    told = checked(tiny_model, tmp_path, "--method", "rollout")
    assert "block 2" in told
    assert "embedding" in told
    checked(tiny_model, tmp_path)
    (file,) = tmp_path.glob("*.json")
    kept = json.loads(file.read_text())
    assert [each["method"] for each in kept["methods"]] == ["rollout", "legrad"]
    assert file == file_of(tmp_path, kept["weights"])
    other = save_model(tmp_path, "other", None)
    with RunningApp(f"{tiny_model},{other}", checks_dir=tmp_path) as running:
        answer = running.client.get("/models").json()
    check_against_contract(answer, "ModelList")
    mine, others = answer["models"]
    assert mine["check"] == kept
    # The same weights under another name are the same model; its config is another file.
    assert others["check"] in (None, kept)


def test_without_a_check_there_is_none(tiny_model: str, tmp_path: Path) -> None:
    with RunningApp(tiny_model, checks_dir=tmp_path / "nothing") as running:
        (model,) = running.client.get("/models").json()["models"]
    assert model["check"] is None


def test_a_damaged_result_is_no_result(tmp_path: Path) -> None:
    weights = "blake2b:12ab"
    file_of(tmp_path, weights).write_text('{"weights": "blake2b:12ab"}')
    assert read_check(tmp_path, weights) is None
    assert file_of(tmp_path, "../../etc/passwd@main").parent == tmp_path


def test_a_wrong_model_or_method_ends_with_a_reason(tiny_model: str, tmp_path: Path) -> None:
    for arguments in (["check", "nothing"], ["check", tiny_model, "--method", "gradcan"]):
        result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path)])
        assert result.exit_code == 2
        assert not isinstance(result.exception, (TypeError, ValueError))
    assert list(tmp_path.iterdir()) == []
