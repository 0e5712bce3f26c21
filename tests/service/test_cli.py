"""The command line, run in this process."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from service.cli import app
from tests.support.paths import CONTRACT
from tests.support.pictures import encoded, picture


@pytest.fixture(autouse=True)
def _wide_terminal_and_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("LEGRAD_MODELS", raising=False)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_picture_is_explained_into_overlays(tiny_model: str, tmp_path: Path) -> None:
    source, output = tmp_path / "cat.jpg", tmp_path / "out"
    source.write_bytes(encoded(picture(90, 60), "JPEG"))
    done = run("explain", source, "a cat", "a dog", "-o", output, "--model", tiny_model)
    assert done.exit_code == 0, done.output
    (question,) = (path for path in output.iterdir() if path.is_dir())
    assert question.name.startswith("tiny-tiny-")
    assert question.name in done.output
    assert sorted(path.relative_to(question).name for path in question.iterdir()) == [
        "cat-a-cat.jpg",
        "cat-a-cat.npy",
        "cat-a-dog.jpg",
        "cat-a-dog.npy",
    ]
    assert [path.name for path in output.iterdir() if path.is_file()] == ["manifest.jsonl"]
    with Image.open(question / "cat-a-cat.jpg") as overlay:
        assert overlay.size == (90, 60)


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (("--model", "nothing-that-exists"), "does not say which weights"),
        (("--model", "ViT-B-16@missing.safetensors"), "no checkpoint"),
        (("--model", "ViT-B-16/no-such-tag"), "no-such-tag"),
        (("--layers", "many"), "many"),
        (("--heads", "each"), "no map of single heads: use heads='mean'"),
        (("--heads", "some"), "'some' is not one of 'mean', 'each'"),
    ],
)
def test_a_wrong_model_or_option_is_reported_clearly(
    tmp_path: Path, arguments: tuple[str, ...], mention: str
) -> None:
    (tmp_path / "cat.png").write_bytes(encoded())
    done = run("explain", tmp_path / "cat.png", "a cat", "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert mention in done.output
    assert isinstance(done.exception, SystemExit)


def test_the_program_says_its_version() -> None:
    done = run("--version")
    assert (done.exit_code, done.output.strip()) == (0, metadata.version("legrad-service"))


def test_models_lists_what_can_be_explained() -> None:
    listed = run("models").output
    assert "starter" in listed
    assert "laion2b_s34b_b88k" in listed
    assert "transformers:" in listed
    assert "Siglip2Model" in listed


def test_the_contract_is_written_to_a_file(tmp_path: Path) -> None:
    assert run("openapi", "-o", tmp_path / "contract.yaml").exit_code == 0
    assert (tmp_path / "contract.yaml").read_text() == CONTRACT.read_text()


@pytest.mark.parametrize(
    ("name", "value", "mention"),
    [
        ("LEGRAD_PORT", "70000", "LEGRAD_PORT"),
        ("LEGRAD_MAX_IMAGES", "none", "LEGRAD_MAX_IMAGES"),
        ("LEGRAD_MODELS", " , ", "LEGRAD_MODELS"),
        ("LEGRAD_MODELS", "ViT-B-16", "does not say which weights"),
        ("LEGRAD_MODELS", "ViT-B-16@missing.pt", "no checkpoint"),
        ("LEGRAD_DTYPE", "int4", "LEGRAD_DTYPE"),
        ("LEGRAD_DEVICE", "abacus", "abacus"),
    ],
)
def test_a_bad_setting_is_named_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, mention: str
) -> None:
    monkeypatch.setattr("service.server.process.configure_logs", lambda *_: None)
    monkeypatch.setenv(name, value)
    done = run("serve")
    assert done.exit_code == 2
    assert mention in done.output


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--version",), 0),
        (("--help",), 0),
        (("explain", "--help"), 0),
        (("key", "team", "--scope", "explain"), 0),
        (("report", "no-such-folder"), 2),
        (("serve", "--port", "99999"), 2),
    ],
)
def test_commands_without_a_model_load_neither_torch_nor_the_web_framework(
    arguments: tuple[str, ...], status: int
) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from service.cli import app\n"
        f"result = CliRunner().invoke(app, {list(arguments)!r})\n"
        "print(result.exit_code, sorted({'torch', 'open_clip', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == f"{status} []\n", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--version",), ("--help",), ("serve", "--help"), ("key", "team", "--scope", "explain")],
)
def test_quick_commands_import_little(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "service", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = {"torch", "open_clip", "fastapi", "numpy", "PIL", "scipy", "httpx", "jinja2", "yaml"}
    assert heavy & imported == set()
    # Half a second on an idle machine; a busy one may take much longer for the same work.
    assert len(imported) < 400
