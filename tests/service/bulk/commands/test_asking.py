"""`legrad ask`: words, regions and changes of one picture, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app

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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Give a prompt, or another picture with --like."),
        (("a cat", "--box", "0,0,9,9"), "--like names"),
        (("a cat", "--how", "mean"), "--change names"),
        (("--like", str(STICKERS), "--words"), "words of prompts"),
        (("a cat", "--change", "0,0,9"), "left,top,right,bottom"),
        (("a cat", "--prompts", "absent.txt"), "absent.txt"),
    ],
)
def test_an_incomplete_question_is_refused(arguments: tuple[str, ...], told: str) -> None:
    found = CliRunner().invoke(app, ["ask", str(STICKERS), *arguments])
    assert found.exit_code == 2
    assert told in found.output
