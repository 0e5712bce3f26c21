"""A wrong setting is one line that names the setting, its value and the remedy."""

import pytest
from typer.testing import CliRunner

from service.cli import app


@pytest.fixture(autouse=True)
def _silent_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.server.process.configure_logs", lambda *_: None)


def line_of(*options: str) -> str:
    done = CliRunner().invoke(app, ["serve", *options])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    return done.output.strip()


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("LEGRAD_PORT", "tcp://10.0.0.1:8000", "enableServiceLinks: false"),
        ("LEGRAD_ADMIN_PORT", "tcp://10.0.0.1:9000", "enableServiceLinks: false"),
        ("LEGRAD_PORT", "70000", "it must be less than or equal to 65535"),
        ("LEGRAD_PORT", "http", "write a whole number"),
        ("PORT", "http", "write a whole number"),
        ("LEGRAD_HOST", "0.0.0.0:8000", "an address alone"),
        ("LEGRAD_HOST", "http://0.0.0.0", "an address alone"),
        ("LEGRAD_HOST", "127.0.0.1\r", "Unix line ends"),
        ("LEGRAD_DEVICE", "cpu\r", "Unix line ends"),
        ("LEGRAD_LOG_LEVEL", "info\n", "a line break: remove it"),
        ("LEGRAD_MAX_QUEUE_COST", "inf", "write a finite number"),
        ("LEGRAD_REQUEST_TIMEOUT_SECONDS", "nan", "write a finite number"),
        ("LEGRAD_IDLE_TIMEOUT_SECONDS", "75s", "write a number"),
        ("LEGRAD_DTYPE", "int4", "write 'auto', 'float32', 'float16'"),
        ("LEGRAD_URL_PRIVATE_ADDRESSES", "perhaps", "write true or false"),
        ("LEGRAD_MODELS", " , ", "name at least one"),
        ("LEGRAD_CORS_ORIGINS", "app.example.org", "write it as browsers do"),
        ("LEGRAD_ROOT_PATH", "legrad", "write a path such as /legrad"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(name, value)
    line = line_of()
    assert line.startswith(f"{name}={value!r}: ")
    assert remedy in line
    assert line.endswith(".")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("LEGRAD_HOST", "no-such-host.invalid", "this host is unknown"),
        ("LEGRAD_HOST", "a" * 70 + ".example", "this host is unknown"),
        ("LEGRAD_HOST", "192.0.2.1", "Give an address of this machine"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(name, value)
    line = line_of()
    assert line.startswith(f"{name}={value!r}")
    assert remedy in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEGRAD_DEVICE", "abacus"), ("LEGRAD_MODELS", "ViT-B-16@missing.pt")],
)
def test_a_value_that_only_the_engine_can_judge_is_named_too(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    line = line_of()
    assert line.startswith(f"{name}: ")
    assert value.partition("@")[2] in line


def test_a_wrong_option_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGRAD_PORT", "8000")
    assert line_of("--port", "99999").startswith("--port='99999': ")
    assert line_of("--device", "abacus").startswith("--device: ")


def test_no_part_of_a_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGRAD_API_KEYS", '["legrad_secret"]')
    line = line_of()
    assert line.startswith("LEGRAD_API_KEYS: ")
    assert "secret" not in line


def test_every_mistake_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGRAD_PORT", "x")
    monkeypatch.setenv("LEGRAD_MAX_IMAGES", "y")
    done = CliRunner().invoke(app, ["serve"])
    assert [line.partition("=")[0] for line in done.output.splitlines()] == [
        "LEGRAD_PORT",
        "LEGRAD_MAX_IMAGES",
    ]
