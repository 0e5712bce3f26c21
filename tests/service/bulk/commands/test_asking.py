"""`legrad ask`: words, regions and changes of one picture, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.support.calibrations import write_calibration

STICKERS = Path(__file__).parents[4] / "examples" / "stickers.png"


def asked(*arguments: str) -> dict[str, Any]:
    found = CliRunner().invoke(app, ["ask", str(STICKERS), *arguments, "--json"])
    assert found.exit_code == 0, found.output
    answer: dict[str, Any] = json.loads(found.stdout)
    return answer


def test_words_and_what_the_warmest_region_is_worth() -> None:
    found = asked("a photo of a cat", "--words", "--change", "warmest")
    (target,) = found["targets"]
    words = target["words"]["words"]
    assert [word["text"] for word in words] == ["a", "photo", "of", "a", "cat"]
    assert any(word["contribution"] for word in words)
    (case,) = found["counterfactual"]["cases"]
    assert case["targets"][0]["change"] < 0


def test_prompts_of_a_file_join_those_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a pizza\na cat\n")
    found = asked("a cat", "--prompts", str(tmp_path / "prompts.txt"))
    assert [each["target"] for each in found["targets"]] == ["a cat", "a pizza"]
    assert found["counterfactual"] is None


def test_a_region_of_another_picture_is_a_target() -> None:
    found = asked("a cat", "--like", str(STICKERS), "--box", "40,35,250,262")
    assert [each["target"] for each in found["targets"]] == ["a cat", str(STICKERS)]
    # A calibration is about texts.
    assert found["targets"][1]["presence"] is None


def test_the_built_in_model_tells_the_presence_of_each_prompt() -> None:
    found = asked("a pizza", "a balloon")
    shown, absent = (each["presence"] for each in found["targets"])
    assert absent < 0.1 < 0.9 < shown
    table = CliRunner().invoke(app, ["ask", str(STICKERS), "a pizza", "a balloon"]).stdout
    assert "Presence" in table
    for name, presence in (("a pizza", shown), ("a balloon", absent)):
        (row,) = (line for line in table.splitlines() if name in line)
        assert f"{presence:.2f}" in row


def test_another_model_tells_the_presence_by_its_calibration(
    tiny_model: str, tmp_path: Path
) -> None:
    file = tmp_path / "presence.json"
    expected = write_calibration(file, tiny_model)
    (plain,) = asked("a cat", "--model", tiny_model)["targets"]
    (target,) = asked("a cat", "--model", tiny_model, "--presence", str(file))["targets"]
    assert plain["presence"] is None
    assert target["presence"] == pytest.approx(expected.probability(target["similarity"]))


def test_a_presence_calibration_of_other_weights_is_refused(
    tiny_model: str, tmp_path: Path
) -> None:
    write_calibration(tmp_path / "presence.json", tiny_model)
    options = ["--presence", str(tmp_path / "presence.json")]
    found = CliRunner().invoke(app, ["ask", str(STICKERS), "a cat", *options])
    assert found.exit_code == 2
    assert "fitted for the weights" in found.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Give a prompt, or another picture with --like."),
        (("a cat", "--box", "0,0,9,9"), "--like names"),
        (("a cat", "--how", "mean"), "--change names"),
        (("--like", str(STICKERS), "--words"), "words of prompts"),
        (("a cat", "--change", "0,0,9"), "left,top,right,bottom"),
        (("a cat", "--prompts", "absent.txt"), "absent.txt"),
        (("a cat", "--presence", "absent.json"), "absent.json cannot be read"),
    ],
)
def test_an_incomplete_question_is_refused(arguments: tuple[str, ...], told: str) -> None:
    found = CliRunner().invoke(app, ["ask", str(STICKERS), *arguments])
    assert found.exit_code == 2
    assert told in found.output
