"""Files of prompts as editors on all systems write them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.bulk.prompts import UnreadablePromptsError, gather_prompts, read_prompts
from service.cli import app
from tests.support.pictures import encoded

LINES = ["# what to look for", "a cat", "", "  a dog  ", "\t# done", "ein Käfer", "一只猫", "🐈"]
PROMPTS = ["a cat", "a dog", "ein Käfer", "一只猫", "🐈"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["Unix", "Windows", "old Mac"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "not ended"])
@pytest.mark.parametrize("encoding", [
    "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be",
])  # fmt: skip
@pytest.mark.parametrize("mark", [True, False], ids=["mark", "no mark"])
def test_every_unicode_file_gives_the_same_prompts(
    tmp_path: Path, encoding: str, mark: bool, last: bool, end: str
) -> None:
    text = end.join(LINES) + (end if last else "")
    if mark and encoding not in ("utf-8-sig", "utf-16", "utf-32"):
        text = "\ufeff" + text
    path = tmp_path / "prompts.txt"
    path.write_bytes(text.encode(encoding))
    assert read_prompts(path) == PROMPTS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "x", "#"])
def test_short_files_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "prompts.txt"
    for each in (encoding, "utf-8"):
        path.write_bytes(text.encode(each))
        assert read_prompts(path) == (["x"] if text == "x" else [])


def test_joined_files_have_marks_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\n\ufeff# more\n\ufeffa dog\n".encode())
    assert read_prompts(path) == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("content", "mention"),
    [
        ("ein Käfer\n".encode("cp1252"), "not text in utf-8.*save it as UTF-8"),
        ("a cat\n".encode("utf-16") + b"x", "not text in utf-16.*save it as UTF-8"),
        (encoded(), "not text"),
        (b"a cat\0\0\0\0 and more, and more\n", "zero characters"),
    ],
    ids=["cp1252", "cut", "picture", "zeros"],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, mention: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(UnreadablePromptsError, match=mention) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_the_command_line_says_which_file_cannot_be_read(tmp_path: Path) -> None:
    picture, prompts = tmp_path / "a.png", tmp_path / "prompts.txt"
    picture.write_bytes(encoded())
    prompts.write_bytes("Käfer".encode("cp1252"))
    done = CliRunner().invoke(app, ["explain", str(picture), "--prompts", str(prompts)])
    assert done.exit_code == 2
    assert "prompts.txt is not text in utf-8" in done.output
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize("command", [["explain"], ["ask"], ["bulk", "-o", "rows"]])
def test_a_file_that_is_given_as_a_prompt_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(encoded())
    source = "pictures/a.png" if command == ["ask"] else "pictures"
    found = CliRunner().invoke(app, [*command, source, "prompts.txt"])
    assert found.exit_code == 2
    assert "prompts.txt is a file: give it with --prompts" in found.output
    assert {each.name for each in tmp_path.iterdir()} == {"prompts.txt", "pictures"}


def test_a_word_may_be_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").write_text("")
    long = "St. Bernard " * 1000
    assert gather_prompts(["cat", "a dog", "cat", long], None) == ("cat", "a dog", long)
