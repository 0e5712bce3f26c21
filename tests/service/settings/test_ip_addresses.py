"""Trusted proxies: which headers decide the address of the client."""

from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from service.settings import Settings
from service.settings.ip_addresses import trusted_networks
from tests.support.running_app import RunningApp

CLAIM = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "Forwarded": "for=1.2.3.4"}


def client_in_the_log(model: str, headers: dict[str, str], **settings: Any) -> str:
    with RunningApp(model, **settings) as running, capture_logs() as logs:
        answer = running.client.get("/models", headers=headers)
        client: str = running.line_of(answer, logs)["client"]
        return client


@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8", "127.0.0.2", "::1"])
def test_nobody_else_can_say_who_the_client_is(
    tiny_model: str, proxies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The variable that uvicorn itself would respect.
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert client_in_the_log(tiny_model, CLAIM, trusted_proxies=proxies) == "127.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        # The caller's own value, then the proxy's.
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),
        # Through two trusted proxies.
        ("198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("", "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_names_the_client(tiny_model: str, forwarded: str, client: str) -> None:
    proxies = "127.0.0.0/8, 10.0.0.0/8"
    headers = {"X-Forwarded-For": forwarded}
    assert client_in_the_log(tiny_model, headers, trusted_proxies=proxies) == client


def test_a_proxy_that_reaches_an_ipv6_socket_over_ipv4_is_the_same_proxy() -> None:
    assert trusted_networks(("10.0.0.0/8", "10.0.0.7", "2001:db8::/32")) == [
        "10.0.0.0/8",
        "::ffff:10.0.0.0/104",
        "10.0.0.7/32",
        "::ffff:10.0.0.7/128",
        "2001:db8::/32",
    ]


@pytest.mark.parametrize("proxies", ["*", "haproxy", "10.0.0.1/8", "10.0.0", "10.0.0.0/33"])
def test_an_invalid_network_is_refused(proxies: str) -> None:
    with pytest.raises(ValidationError, match="not an address or a network"):
        Settings.model_validate({"trusted_proxies": proxies})
