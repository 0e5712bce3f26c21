"""The URL policy: which picture URLs are allowed, decided without a network."""

import ipaddress
from collections.abc import Callable, Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidUrlError, ServiceError, UrlNotAllowedError
from service.settings.ip_addresses import is_private, is_public, parse_address
from service.settings.url_policy import ImageUrl, UrlRules

# From the registries of IANA, independent of the implementation.
NOT_GLOBAL_IPV4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/29", "192.0.0.8/32", "192.0.0.170/31", "192.0.0.192/32", "192.0.2.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
]  # fmt: skip
NOT_GLOBAL_IPV6 = [
    "::/128", "::1/128", "::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64",
    "2001::/32", "2001:2::/48", "2001:10::/28", "2001:db8::/32", "2002::/16", "3fff::/20",
    "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
]  # fmt: skip
METADATA = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"]

PUBLIC = UrlRules(["public"], private_addresses=False)


def addresses_in(*networks: str) -> st.SearchStrategy[str]:
    def strategy(network: str) -> st.SearchStrategy[str]:
        return st.ip_addresses(network=network).map(str)

    return st.sampled_from(networks).flatmap(strategy)


def ipv6(high: int, low_bits: int, low: int, shift: int = 0) -> str:
    return str(ipaddress.IPv6Address((high << low_bits) | (low << shift)))


# Every way to carry an IPv4 address in an IPv6 address.
CARRIERS: dict[str, Callable[[int], str]] = {
    "mapped": lambda v4: ipv6(0xFFFF, 32, v4),
    "compatible": lambda v4: ipv6(0, 32, v4),
    "translated": lambda v4: ipv6(0xFFFF0000, 32, v4),
    "nat64": lambda v4: ipv6(0x0064_FF9B << 64, 32, v4),
    "local nat64": lambda v4: ipv6(0x0064_FF9B_0001 << 48, 32, v4),
    "6to4": lambda v4: ipv6(0x2002, 112, v4, 80),
    "teredo server": lambda v4: ipv6(0x2001_0000, 96, v4, 64),
    "teredo client": lambda v4: ipv6(0x2001_0000 << 64, 32, v4 ^ 0xFFFFFFFF),
}


def dotted(v4: int) -> str:
    return str(ipaddress.IPv4Address(v4))


# Texts that some parser takes for an IPv4 address.
NOTATIONS: dict[str, Callable[[int], str]] = {
    "dotted": dotted,
    "decimal": str,
    "hexadecimal": hex,
    "octal": lambda v4: f"0{v4:o}",
    "dotted hexadecimal": lambda v4: ".".join(map(hex, v4.to_bytes(4, "big"))),
    "dotted octal": lambda v4: ".".join(f"0{part:o}" for part in v4.to_bytes(4, "big")),
    "padded": lambda v4: ".".join(f"{part:03d}" for part in v4.to_bytes(4, "big")),
    "two parts": lambda v4: f"{v4 >> 24}.{v4 & 0xFFFFFF}",
    "three parts": lambda v4: f"{v4 >> 24}.{v4 >> 16 & 0xFF}.{v4 & 0xFFFF}",
    "final dot": lambda v4: f"{dotted(v4)}.",
    "ideographic dots": lambda v4: dotted(v4).replace(".", "。"),
    "full width": lambda v4: dotted(v4).translate({48 + n: 0xFF10 + n for n in range(10)}),
    "percent": lambda v4: "".join(f"%{ord(each):02x}" for each in dotted(v4)),
    "bracketed": lambda v4: f"[{dotted(v4)}]",
}


@given(addresses_in(*NOT_GLOBAL_IPV4, *NOT_GLOBAL_IPV6, *METADATA))
def test_no_special_address_is_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    url = ImageUrl(httpx.URL("http://a.example"), "a.example", 80, False, None)
    assert not PUBLIC.may_connect(url, address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(UrlNotAllowedError):
        PUBLIC.check(f"http://{host}/")


@pytest.mark.parametrize("carry", CARRIERS.values(), ids=CARRIERS)
@given(address=addresses_in(*NOT_GLOBAL_IPV4))
def test_no_special_address_is_public_inside_another(
    carry: Callable[[int], str], address: str
) -> None:
    carried = carry(int(ipaddress.IPv4Address(address)))
    assert not is_public(ipaddress.ip_address(carried)), carried
    assert not is_private(ipaddress.ip_address(carried)) or carried == "::1", carried


@pytest.mark.parametrize("write", NOTATIONS.values(), ids=NOTATIONS)
@given(address=addresses_in(*NOT_GLOBAL_IPV4))
def test_no_special_address_is_followed_in_any_notation(
    write: Callable[[int], str], address: str
) -> None:
    host = write(int(ipaddress.IPv4Address(address)))
    for text in (f"http://{host}/", f"https://{host}:443/x", f"HTTP://{host}?x"):
        with pytest.raises((InvalidUrlError, UrlNotAllowedError)):
            PUBLIC.check(text)


@given(st.ip_addresses())
def test_public_addresses_are_global_for_python_too(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved or address in ipaddress.ip_network("64:ff9b::/96")
        assert not is_private(address)


@given(st.ip_addresses(v=6), st.sampled_from(["1", "eth0", "25eth0"]))
def test_no_address_with_a_zone_is_accepted(address: ipaddress.IPv6Address, zone: str) -> None:
    for base in (address, "fe80::1", "2606:4700::1111", "::1", "fd00::1"):
        scoped = parse_address(f"{base}%{zone}")
        assert scoped is None or not (is_public(scoped) or is_private(scoped))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "192.31.196.1",
        "2606:4700:4700::1111",
        "2a00:1450::1",
        "64:ff9b::808:808",
    ],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", [*METADATA, "fe80::1", "224.0.0.1", "0.0.0.0", "::"])
def test_no_setting_opens_the_addresses_where_clouds_keep_credentials(address: str) -> None:
    rules = UrlRules(["a.example", address if ":" not in address else f"[{address}]"], True)
    assert not rules.may_connect(rules.check("http://a.example/"), address)
    host = address if ":" not in address else f"[{address}]"
    with pytest.raises(UrlNotAllowedError):
        rules.check(f"http://{host}/")


@given(st.text(max_size=60) | st.from_regex(r"https?://[^/]{1,30}(/.{0,20})?", fullmatch=True))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        checked = PUBLIC.check(text)
    except (InvalidUrlError, UrlNotAllowedError):
        return
    assert checked.parsed.scheme in ("http", "https")
    assert checked.port in (80, 443)
    assert checked.host.isascii()
    assert not checked.parsed.userinfo
    assert checked.parsed.raw_path.startswith(b"/")
    assert not set(checked.parsed.raw_path + checked.parsed.netloc) & set(b" \r\n\t\\\0")


@given(st.text(max_size=60) | st.from_regex(r"(//|/|\.\./|https?:)[^\n]{0,30}", fullmatch=True))
def test_any_redirect_is_an_address_or_refused(location: str) -> None:
    start = PUBLIC.check("https://a.example/b/c?d")
    try:
        target = PUBLIC.follow(start, location)
    except (InvalidUrlError, UrlNotAllowedError):
        return
    assert target.parsed.scheme == "https"
    assert target.port in (80, 443)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cat.jpg",
        "//a.example/x",
        "ftp://a.example/x",
        "file:///etc/passwd",
        "gopher://a.example/",
        "data:image/png;base64,AAAA",
        "https:a.example",
        "https:/a.example",
        "https:///a.example",
        "https://",
        "https://:443/",
        "https://user@a.example/",
        "https://user:secret@a.example/",
        "https://@a.example/",
        "https://a.example\\@127.0.0.1/",
        "https://a.example\\.b.example/",
        "https://a.exa\tmple/",
        "https://a.exa\nmple/",
        " https://a.example/",
        "https://a.example/x\r\nHost: b",
        "https://a.example/\0",
        "https://a.example./",
        "https://.example/",
        "https://a..example/",
        "https://-a.example/",
        "https://a_.b-/",
        f"https://{'a' * 64}.example/",
        f"https://{'a.' * 130}example/",
        "https://a.example:port/",
        "https://[::1/",
        "https://[a.example]/",
        "https://a%2eexample/",
        "https://a.example%00.b.example/",
        "https://xn--a/" + "x" * 5000,
        "https://a.0x7f/",
        "https://ex\uff0fample.org/",
        "https://a.example\uff0f@b.example/",
    ],
)
def test_an_ambiguous_or_foreign_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrlError):
        PUBLIC.check(text)


@pytest.mark.parametrize("port", [0, 1, 22, 25, 81, 8080, 8443, 65535, 99999])
def test_other_ports_are_refused_unless_named(port: int) -> None:
    for rules in (PUBLIC, UrlRules(["a.example", "*.example"], private_addresses=True)):
        with pytest.raises(UrlNotAllowedError):
            rules.check(f"https://a.example:{port}/")


@pytest.mark.parametrize(
    ("hosts", "allowed", "refused"),
    [
        ([], [], ["https://a.example/", "http://8.8.8.8/"]),
        (
            ["a.example"],
            ["https://a.example/x?y#z", "http://A.Example:80/", "http://a.example:443/"],
            ["https://b.a.example/", "https://aa.example/", "https://8.8.8.8/"],
        ),
        (
            ["*.b.example"],
            ["https://a.b.example/", "https://x.y.b.example/"],
            ["https://b.example/", "https://ab.example/", "https://a.b.example.org/"],
        ),
        (["a.example:8443"], ["https://a.example:8443/"], ["https://a.example/"]),
        (["a.example:80"], ["http://a.example/"], ["https://a.example/"]),
        (["bücher.example"], ["https://BÜCHER.example/", "https://xn--bcher-kva.example/"], []),
        (["8.8.8.8"], ["http://8.8.8.8/"], ["http://8.8.4.4/", "http://a.example/"]),
        (["[2606:4700::1]:8443"], ["https://[2606:4700:0::1]:8443/"], ["https://[2606:4700::1]/"]),
        (["public", "a.example:81"], ["https://b.example/", "http://a.example:81/"], []),
    ],
    ids=str,
)
def test_the_list_of_hosts_decides(
    hosts: Sequence[str], allowed: Sequence[str], refused: Sequence[str]
) -> None:
    rules = UrlRules(hosts, private_addresses=False)
    for text in allowed:
        assert rules.check(text)
    for text in refused:
        with pytest.raises(UrlNotAllowedError):
            rules.check(text)


@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "100.64.0.1", "::1", "fd12::1"])
def test_private_addresses_are_for_hosts_named_in_full_where_that_is_set(address: str) -> None:
    for hosts, private, expected in (
        (["a.b.example"], True, True),
        (["a.b.example"], False, False),
        (["*.b.example"], True, False),
        (["public"], True, False),
        (["public", "*.b.example", "a.b.example"], True, True),
    ):
        rules = UrlRules(hosts, private)
        assert rules.may_connect(rules.check("https://a.b.example/"), address) is expected


def test_the_refusal_of_an_address_reveals_nothing_else() -> None:
    with pytest.raises(ServiceError) as caught:
        UrlRules(["public"], private_addresses=True).check("http://10.0.0.1/secret?token=5")
    assert "secret" not in str(caught.value)
    assert "token" not in str(caught.value)
