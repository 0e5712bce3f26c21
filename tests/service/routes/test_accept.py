"""The media type of an answer is the one that `Accept` prefers (RFC 9110, 12.5.1)."""

import pytest

from service.errors import NotAcceptableError
from service.routes import accept
from service.routes.accept import choose
from tests.support.answers import refused
from tests.support.running_app import RunningApp

JSON, JPEG, WEBP, PNG = "application/json", "image/jpeg", "image/webp", "image/png"
OFFERED = (JSON, JPEG, WEBP, PNG)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("image/*", JPEG),
        ("image/jpeg", JPEG),
        ("image/webp, image/png", WEBP),
        ("image/png, image/*;q=0.5", PNG),
        ("IMAGE/PNG", PNG),
        ("image/png;q=0, application/json", JSON),
        ("image/png;q=0, */*", JSON),
        ("application/json;q=0, */*;q=0.1", JPEG),
        ("application/json;q=0.4, image/*;q=0.5", JPEG),
        ("application/json;q=0.5, image/*;q=0.4", JSON),
        ("image/*;q=0.9, image/png;q=0.1, application/json;q=0.5", JPEG),
        ("image/*;q=0.4, image/png;q=0.1, application/json;q=0.5", JSON),
        ("application/json, image/png", JSON),
        ("image/png, application/json", PNG),
        ("application/json; charset=utf-8, text/plain, */*", JSON),
        ("image/png, */*", PNG),
        ("image/png;q=0.1, application/json;q=0.5, image/png", PNG),
        ('text/plain;a="b,image/png", application/json;q=0.1', JSON),
        # Images of pages in Chromium, Firefox and Safari.
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", WEBP),
        ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", WEBP),
        ("image/webp,image/avif,image/jxl,image/heic,video/*;q=0.8,image/*;q=0.8,*/*;q=0.5", WEBP),
        # A page in Firefox and in Chromium, and Java's HttpURLConnection.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", JSON),
        ("text/html,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8", JSON),
        ("text/html, image/gif, image/jpeg, */*; q=0.2", JSON),
        ("text/html, image/png", PNG),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON),
    ],
)
def test_the_preferred_type_is_chosen(given: str, chosen: str) -> None:
    assert choose([given], OFFERED) == chosen


def test_several_headers_are_one_list() -> None:
    assert choose(["application/json;q=0.1", "image/png"], OFFERED) == PNG
    assert choose([], OFFERED) == JSON


def test_a_long_header_is_read_like_a_short_one() -> None:
    long = [f"text/{number}" for number in range(99)]
    assert choose([", ".join([*long, "image/png"])], OFFERED) == PNG


def test_more_ranges_than_a_client_could_mean_are_refused() -> None:
    for given in ("*," * 101, ", ".join(f"text/{number}" for number in range(101))):
        with pytest.raises(NotAcceptableError, match="name only the types that you can read"):
            choose([given], OFFERED)


@pytest.mark.parametrize(
    "given", ["text/html", "*/*;q=0", "image/png;q=0, image/*;q=0", "image/png;q=0"]
)
def test_no_accepted_type_is_refused(given: str) -> None:
    with pytest.raises(
        NotAcceptableError,
        match="Answers are application/json, image/jpeg, image/webp or image/png",
    ):
        choose([given], OFFERED)


@pytest.mark.parametrize("weight", ["", "2", "-1", "abc", "0,5", "nan", "1.5", "1e-1"])
def test_an_invalid_weight_is_refused_by_name(weight: str) -> None:
    with pytest.raises(NotAcceptableError, match="from 0 to 1"):
        choose([f'{JSON};q="{weight}"'], OFFERED)


@pytest.mark.parametrize("piece", ["a,", '"', '\\"', ";", 'a;q="'])
def test_headers_that_are_long_together_are_refused_unread(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(accept, "_read", read.append)
    with pytest.raises(NotAcceptableError, match="Accept has more than 4096 characters"):
        choose([piece * 1000, piece * 100_000], OFFERED)
    assert not read


def test_the_answer_has_the_chosen_type(running: RunningApp) -> None:
    for given, chosen in (("image/png;q=0, application/json", JSON), ("image/*,*/*;q=0.8", JPEG)):
        answer = running.explain(None, Accept=given)
        assert answer.headers["content-type"] == chosen, answer.text
    for refusal in ("image/avif", "*," * 100_000):
        refused(running.explain(None, Accept=refusal), 406, "not-acceptable", "Accept")
