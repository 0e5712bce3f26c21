"""Pictures by URL: allowed hosts, redirects, TLS, proxies and time limits."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from service.explaining.network import SystemNetwork
from tests.support.answers import validator_of
from tests.support.api_keys import bearer, entry, listed
from tests.support.fetching_app import PICTURE, FetchingApp, refused, tls_for, trusting
from tests.support.picture_sites import PictureSite, answer, redirects, sends
from tests.support.pictures import data_url, encoded, picture, request_of, unseen
from tests.support.running_app import Held, RunningApp

SCOPES = ("explain", "metrics")


@pytest.fixture(scope="module")
def fetching(tiny_model: str, authority: trustme.CA) -> Iterator[FetchingApp]:
    with trusting(authority), pytest.MonkeyPatch.context() as environment:
        # These proxies do not exist; the test client ignores them.
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environment.setenv(name, "http://127.0.0.1:9")
        environment.setenv("NO_PROXY", "127.0.0.1")
        with FetchingApp(tiny_model) as started:
            yield started


def test_a_fetched_picture_is_answered_as_a_posted_one(fetching: FetchingApp) -> None:
    posted = fetching.explain(request_of(options={"cache": False})).json()
    with fetching.site(sends(answer(PICTURE))) as (url, _):
        body = {"image": {"url": url}, "prompts": ["a cat"], "options": {"cache": False}}
        fetched = fetching.explain(body).json()
    assert fetched["images"] == posted["images"]


def test_a_fetched_picture_finds_the_trace_of_a_posted_one(fetching: FetchingApp) -> None:
    fresh = encoded(unseen())
    first = fetching.explain(request_of(image=data_url(fresh))).json()
    with fetching.site(sends(answer(fresh))) as (url, _):
        second = fetching.explain_url(url).json()
    assert [first["images"][0]["cached"], second["images"][0]["cached"]] == [False, True]


def test_fetched_and_posted_pictures_keep_their_order(fetching: FetchingApp) -> None:
    def sized(width: int) -> bytes:
        return encoded(picture(width, 40))

    with (
        fetching.site(sends(answer(sized(50))), "one.example", address="8.8.8.8") as (one, first),
        fetching.site(sends(answer(sized(70))), "two.example", address="1.1.1.1") as (two, _),
    ):
        images = [{"url": one}, data_url(sized(60)), {"url": two}, {"url": one}]
        response = fetching.explain({"images": images, "prompts": ["a cat"]})
        widths = [image["size"]["width"] for image in response.json()["images"]]
        assert widths == [50, 60, 70, 50]
        assert len(first.heads) == 1


def test_the_failing_address_of_several_is_named(fetching: FetchingApp) -> None:
    with fetching.site(sends(answer(PICTURE))) as (url, _):
        images = [{"url": url}, data_url(PICTURE), {"url": "http://missing.example/"}]
        response = fetching.explain({"images": images, "prompts": ["a cat"]})
        refused(response, 403, "url-not-allowed", "images.2.url")
        images = [data_url(PICTURE), {"url": "http://[::1]/"}]
        response = fetching.explain({"images": images, "prompts": ["a cat"]})
        refused(response, 403, "url-not-allowed", "images.1.url")


def test_the_content_is_judged_by_decoding_and_not_by_its_type(fetching: FetchingApp) -> None:
    with fetching.site(sends(answer(PICTURE, Content_Type="text/html"))) as (url, _):
        assert fetching.explain_url(url).status_code == 200
    page = b"<html>No picture here.</html>"
    with fetching.site(sends(answer(page, Content_Type="image/png"))) as (url, _):
        refused(fetching.explain_url(url), 422, "image-decode-failed", "image")


def test_nothing_of_the_caller_or_of_this_machine_goes_out(fetching: FetchingApp) -> None:
    def answered(connection: Any) -> None:
        connection.sendall(
            redirects_with_cookie if len(site.heads) == 1 else answer(PICTURE, Set_Cookie="b=2")
        )

    redirects_with_cookie = answer(status="302 Found", Location="/again", Set_Cookie="a=1")
    with fetching.site(answered) as (url, site):
        response = fetching.explain_url(
            f"{url}?x=1#part", Authorization="Bearer secret", Cookie="secret=1", Referer="secret"
        )
        assert response.status_code == 200
        first, second = site.heads
    assert first.startswith("GET /picture?x=1 HTTP/1.1\r\n")
    assert second.startswith("GET /again HTTP/1.1\r\n")
    for head in (first, second):
        sent = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:] if line)
        assert sent.pop("host") == "pictures.example"
        assert sent == {
            "accept": "image/*",
            "accept-encoding": "identity",
            "connection": "close",
            "user-agent": "legrad-service",
        }


def test_over_tls_the_name_is_checked_and_the_checked_address_is_used(
    fetching: FetchingApp, authority: trustme.CA
) -> None:
    named: list[str | None] = []
    context = tls_for(authority, "secure.example")
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    before = len(fetching.network.connected)
    with fetching.site(
        sends(answer(PICTURE)), "secure.example", address="1.0.0.1", port=443, tls=context
    ) as (url, site):
        assert fetching.explain_url(url).status_code == 200
        assert "host: secure.example\r\n" in site.heads[0].lower()
    assert named == ["secure.example"]
    assert fetching.network.connected[before:] == [("1.0.0.1", 443)]


@pytest.mark.parametrize("names", [["other.example"], ["1.0.0.1"], ["*.secure.example"]], ids=str)
def test_a_certificate_for_another_name_is_refused(
    fetching: FetchingApp, authority: trustme.CA, names: list[str]
) -> None:
    """A certificate for the IP address of the connection is refused as well."""
    with fetching.site(
        sends(answer(PICTURE)),
        "secure.example",
        address="1.0.0.1",
        port=443,
        tls=tls_for(authority, *names),
    ) as (url, site):
        refused(fetching.explain_url(url), 502, "url-unreachable")
        assert site.heads == []


def test_a_certificate_of_an_unknown_authority_is_refused(fetching: FetchingApp) -> None:
    context = tls_for(trustme.CA(), "secure.example")
    with fetching.site(
        sends(answer(PICTURE)), "secure.example", address="1.0.0.1", port=443, tls=context
    ) as (url, site):
        refused(fetching.explain_url(url), 502, "url-unreachable")
        assert site.heads == []


def test_a_numeric_address_is_fetched_without_a_look_up(
    fetching: FetchingApp, authority: trustme.CA
) -> None:
    lookups = len(fetching.network.lookups)
    with fetching.site(
        sends(answer(PICTURE)),
        "unused.example",
        address="2606:4700::1111",
        port=443,
        tls=tls_for(authority, "2606:4700::1111"),
    ) as (_, site):
        assert fetching.explain_url("https://[2606:4700:0:0::1111]/x").status_code == 200
        assert "host: [2606:4700:0:0::1111]\r\n" in site.heads[0].lower()
    assert len(fetching.network.lookups) == lookups


def test_the_next_address_is_tried_where_one_does_not_answer(fetching: FetchingApp) -> None:
    with fetching.site(sends(answer(PICTURE))) as (url, _):
        fetching.network.hosts["pictures.example"] = ["2606:4700::1", "8.8.8.8", "8.8.4.4"]
        assert fetching.explain_url(url).status_code == 200
    assert fetching.network.connected[-3:] == [
        ("2606:4700::1", 80),
        ("8.8.8.8", 80),
        ("8.8.4.4", 80),
    ]


def test_an_address_that_swallows_everything_leaves_time_for_the_next(tiny_model: str) -> None:
    with (
        FetchingApp(tiny_model, url_timeout_seconds=4) as fetching,
        fetching.site(sends(answer(PICTURE))) as (url, _),
    ):
        fetching.network.silent.add(("1.2.3.4", 80))
        fetching.network.hosts["pictures.example"] = ["1.2.3.4", "8.8.4.4"]
        assert fetching.explain_url(url).status_code == 200
        fetching.network.hosts["pictures.example"] = ["1.2.3.4"]
        refused(fetching.explain_url(url), 504, "url-timeout")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 T", "308 P"])
def test_redirects_are_followed_with_a_look_up_each(fetching: FetchingApp, status: str) -> None:
    with (
        fetching.site(sends(answer(PICTURE)), "end.example", address="8.8.8.8") as (end, last),
        fetching.site(redirects(end, status)) as (url, first),
    ):
        before = len(fetching.network.lookups)
        assert fetching.explain_url(url).status_code == 200
        assert fetching.network.lookups[before:] == ["pictures.example", "end.example"]
        assert (len(first.heads), len(last.heads)) == (1, 1)


def test_a_host_that_is_not_on_the_list_is_not_even_looked_up(tiny_model: str) -> None:
    with FetchingApp(tiny_model, url_hosts="pictures.example, *.cdn.example") as fetching:
        for host in ("cdn.example", "other.example", "8.8.8.8"):
            refused(fetching.explain_url(f"http://{host}/"), 403, "url-not-allowed")
        assert fetching.network.lookups == []
        with fetching.site(redirects("http://other.example/")) as (url, _):
            refused(fetching.explain_url(url), 403, "url-not-allowed")
        assert fetching.network.lookups == ["pictures.example"]
        with fetching.site(sends(answer(PICTURE)), "a.b.cdn.example") as (url, _):
            assert fetching.explain_url(url).status_code == 200


def test_private_hosts_are_fetched_only_where_a_setting_says_so(tiny_model: str) -> None:
    """This test uses the machine's own resolver and network."""
    with PictureSite(sends(answer(PICTURE))) as site:
        body = {"image": {"url": f"http://localhost:{site.port}/"}, "prompts": ["a cat"]}
        hosts = f"localhost:{site.port}"
        with RunningApp(tiny_model, url_hosts=hosts) as running:
            refused(running.explain(body), 403, "url-not-allowed")
            assert site.heads == []
        with RunningApp(tiny_model, url_hosts=hosts, url_private_addresses=True) as running:
            assert running.explain(body).status_code == 200
            assert f"host: localhost:{site.port}\r\n" in site.heads[0].lower()


def test_a_name_without_addresses_is_no_failure_of_the_resolver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(kind: int) -> Any:
        raise socket.gaierror(kind, "as the system says it")

    network = SystemNetwork()
    assert set(network.addresses("localhost")) <= {"127.0.0.1", "::1"}
    assert network.addresses("8.8.8.8") == ["8.8.8.8"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers(socket.EAI_NONAME))
    assert network.addresses("missing.example") == []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers(socket.EAI_AGAIN))
    with pytest.raises(OSError, match="as the system says it"):
        network.addresses("missing.example")


def test_one_caller_fetches_no_more_pictures_at_once_than_half(tiny_model: str) -> None:
    release = threading.Event()

    def held(_: Any) -> bytes:
        assert release.wait(60)
        return answer(PICTURE)

    with (
        FetchingApp(tiny_model, url_max_fetches=6, url_timeout_seconds=60) as fetching,
        fetching.site(held) as (url, site),
    ):
        bodies = [{"image": {"url": url}, "prompts": ["a cat"]} for _ in range(7)]
        answers = [fetching.explain_in_background(body) for body in bodies]
        fetching.eventually(lambda: fetching.metric("legrad_requests_in_progress") == 7)
        site.wait_for_open(3)
        assert len(fetching.network.lookups) == 3
        release.set()
        assert [each.result().status_code for each in answers] == [200] * 7
        assert site.most_open == 3


def test_a_caller_whose_server_is_slow_leaves_places_for_the_fetches_of_others(
    tiny_model: str,
) -> None:
    release = threading.Event()

    def held(_: Any) -> None:
        assert release.wait(60)

    keys = listed(entry("slow", "of slow", "explain"), entry("other", "of other", *SCOPES))
    with (
        FetchingApp(
            tiny_model, url_max_fetches=4, url_timeout_seconds=60, api_keys=keys
        ) as fetching,
        fetching.site(held, "slow.example", address="8.8.8.8") as (slow, site),
        fetching.site(sends(answer(PICTURE))) as (url, _),
    ):
        fetching.client.headers.update(bearer("of other"))
        body = {"image": {"url": slow}, "prompts": ["a cat"]}
        waiting = [fetching.explain_in_background(body, **bearer("of slow")) for _ in range(7)]
        try:
            fetching.eventually(lambda: fetching.metric("legrad_requests_in_progress") == 7)
            fetching.eventually(lambda: site.open > 1)
            assert fetching.explain_url(url).status_code == 200
            assert site.most_open == 2
        finally:
            release.set()
        assert {each.result().status_code for each in waiting} == {502}


def test_a_full_queue_refuses_before_anything_is_fetched(tiny_model: str) -> None:
    with FetchingApp(tiny_model, max_queue_cost=2, max_batch_images=1) as fetching:
        with Held(fetching) as held:
            computing = fetching.explain_in_background()
            assert held.entered.wait(60)
            queued = fetching.explain_in_background(request_of(prompts=["a dog"]))
            fetching.eventually(
                lambda: fetching.metric('legrad_queue_depth{model="tiny-tiny"}') == 1
            )
            response = fetching.explain_url("http://pictures.example/")
            assert (response.status_code, response.json()["error"]) == (429, "queue-full")
            assert fetching.network.lookups == []
        assert computing.result().status_code == queued.result().status_code == 200


def test_fetches_are_counted_by_outcome(fetching: FetchingApp) -> None:
    def counted() -> dict[str, float]:
        return {
            outcome: fetching.metric(f'legrad_url_fetches_total{{outcome="{outcome}"}}')
            for outcome in ("fetched", "url-refused", "url-not-allowed")
        } | {"seconds": fetching.metric("legrad_url_fetch_seconds_count")}

    before = counted()
    with fetching.site(sends(answer(PICTURE))) as (url, _):
        fetching.explain_url(url)
    with fetching.site(sends(answer(status="404 Not Found"))) as (url, _):
        fetching.explain_url(url)
    fetching.explain_url("http://missing.example/")
    moved = {name: value - before[name] for name, value in counted().items()}
    assert moved == {"fetched": 1, "url-refused": 1, "url-not-allowed": 1, "seconds": 3}


def test_addresses_stay_out_of_the_logs_and_metrics(
    fetching: FetchingApp, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "zebra5671"
    caplog.set_level("INFO")
    with fetching.site(redirects(f"http://{secret}.example/{secret}")) as (url, _):
        problem = fetching.explain_url(f"{url}?token={secret}")
    refused(problem, 403, "url-not-allowed")
    assert secret not in problem.text
    assert secret not in caplog.text + "".join(capsys.readouterr())
    assert secret not in fetching.client.get("/metrics").text


@pytest.mark.parametrize(
    ("image", "fits"),
    [
        ({"url": "https://images.example.org/cat.jpg"}, True),
        ({"b64": "AAAA"}, True),
        ({"url": "https://images.example.org/cat.jpg", "b64": "AAAA"}, False),
        ({"url": ""}, False),
        ({"url": None}, False),
        ({}, False),
    ],
    ids=str,
)
def test_the_contract_knows_addresses(image: dict[str, Any], fits: bool) -> None:
    validator = validator_of("ExplainRequest")
    assert validator.is_valid({"image": image, "prompts": ["a cat"]}) is fits
    assert validator.is_valid({"images": ["AAAA", image], "prompts": ["a cat"]}) is fits
