import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from legrad_engine.errors import InvalidOptionError, UnknownModelError
from service.settings import Settings, unknown_variables
from tests.support.paths import DOCS


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORT", raising=False)
    for name in [name for name in os.environ if name.upper().startswith("LEGRAD_")]:
        monkeypatch.delenv(name)


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


@given(
    empty=st.sets(st.sampled_from(sorted(Settings.model_fields))),
    blank=st.sampled_from(["", " ", "\t "]),
)
def test_an_empty_variable_is_an_unset_one(empty: set[str], blank: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in empty:
            monkeypatch.setenv(f"LEGRAD_{name.upper()}", blank)
        assert Settings() == Settings.model_construct()


@given(names=st.sets(st.sampled_from(sorted(Settings.model_fields)), min_size=1))
def test_an_option_replaces_a_variable_before_it_is_judged(names: set[str]) -> None:
    defaults = Settings.model_construct()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in names:
            monkeypatch.setenv(f"LEGRAD_{name.upper()}", "tcp://10.0.0.1:8000\r")
        options = {name: getattr(defaults, name) for name in names}
        assert Settings.model_validate(options) == defaults


_NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if field.annotation in (int, float, int | None)
]


@pytest.mark.parametrize("name", _NUMBERS)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e309", "-1", "x"])
def test_no_number_is_taken_that_breaks_something_later(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"LEGRAD_{name.upper()}", value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
@pytest.mark.parametrize("value", ["x\ry", "x\x00y", "x\x1b[31m"])
def test_no_setting_takes_control_characters(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({name: value})


@pytest.mark.parametrize(
    "name", [name for name in Settings.model_fields if name.endswith("_seconds")]
)
def test_a_time_beyond_all_clocks_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"LEGRAD_{name.upper()}", "1e300")
    with pytest.raises(ValidationError, match="less than or equal to"):
        Settings()


def test_the_port_of_a_platform_counts_where_no_other_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "9001")
    assert Settings().port == 9001
    monkeypatch.setenv("LEGRAD_PORT", "")
    assert Settings().port == 9001
    assert Settings.model_validate({"port": 9003}).port == 9003
    monkeypatch.setenv("LEGRAD_PORT", "9002")
    assert Settings().port == 9002
    monkeypatch.delenv("LEGRAD_PORT")
    monkeypatch.setenv("PORT", "")
    assert Settings().port == 8000


def test_lists_may_have_an_entry_on_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGRAD_MODELS", "starter,\n\tViT-B-16/laion2b_s34b_b88k,\n")
    assert Settings().models == ("starter", "ViT-B-16/laion2b_s34b_b88k")


@pytest.mark.parametrize(
    ("given_path", "prefix"),
    [
        ("/legrad", "/legrad"),
        ("/a/b/", "/a/b"),
        ("/", ""),
        ("", ""),
        ("/v1.0_~y-z", "/v1.0_~y-z"),
    ],
)
def test_a_path_prefix_has_no_last_slash(given_path: str, prefix: str) -> None:
    assert Settings(root_path=given_path).root_path == prefix


@pytest.mark.parametrize(
    "prefix", ["legrad", "//evil.example", "/a//b", "/../x", "/a b", "/a?b", "https://a/b", "/ä"]
)
def test_what_is_no_path_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValidationError, match="write a path such as /legrad"):
        Settings(root_path=prefix)


def test_variables_of_service_links_are_no_misspelt_settings() -> None:
    links = [
        "LEGRAD_SERVICE_HOST",
        "LEGRAD_SERVICE_PORT",
        "LEGRAD_SERVICE_PORT_HTTP",
        "LEGRAD_PORT_8000_TCP",
        "LEGRAD_PORT_8000_TCP_ADDR",
        "LEGRAD_ADMIN_PORT_9000_TCP_PROTO",
        "LEGRAD_ADMIN_SERVICE_HOST",
    ]
    assert unknown_variables([*links, "LEGRAD_PROT"]) == {"LEGRAD_PROT": "LEGRAD_PORT"}


def test_a_model_without_weights_is_refused_with_the_tags_it_could_have() -> None:
    with pytest.raises(UnknownModelError, match="laion2b_s34b_b88k"):
        _ = Settings(models=("ViT-B-16",)).named_models


def test_a_model_named_twice_is_served_once() -> None:
    assert len(Settings(models=("starter", "starter")).named_models) == 1


def test_two_models_with_one_id_are_refused() -> None:
    twins = ("ViT-B-16@/a/weights.pt", "ViT-B-16@/b/weights.pt")
    with pytest.raises(InvalidOptionError, match="same id"):
        _ = Settings(models=twins).named_models
