import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.support.paths import DOCS

DOCUMENT = DOCS / "settings.md"


def table() -> str:
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "unset" if default in (None, "") else f"`{default}`"
        rows.append(f"| `LEGRAD_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def test_the_documented_settings_are_the_settings() -> None:
    assert table() in DOCUMENT.read_text()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGRAD_MODELS", "starter, ViT-B-16/laion2b_s34b_b88k")
    monkeypatch.setenv("LEGRAD_MAX_BATCH_IMAGES", "3")
    monkeypatch.setenv("LEGRAD_URL_HOSTS", "images.example.org, *.example.net")
    settings = Settings()
    assert [model.id for model in settings.named_models] == [
        "starter",
        "vit-b-16-laion2b_s34b_b88k",
    ]
    assert settings.max_batch_images == 3
    assert settings.url_policy.rules.check("https://a.example.net/cat.jpg").host == "a.example.net"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("MAX_BATCH_IMAGES", "0"),
        ("DTYPE", "float8"),
        ("MODELS", " , "),
        ("URL_HOSTS", "https://example.org"),
        ("URL_HOSTS", "example.org/pictures"),
        ("URL_HOSTS", "user@example.org"),
        ("URL_HOSTS", "*"),
        ("URL_HOSTS", "example.org:99999"),
        ("URL_HOSTS", "example.org:0"),
        ("URL_HOSTS", "10.1"),
    ],
)
def test_a_senseless_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"LEGRAD_{name}", value)
    with pytest.raises(ValidationError):
        Settings()
