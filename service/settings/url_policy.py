"""The URLs of pictures that may be fetched, judged by their text alone, without the network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from service.errors import InvalidUrlError, UrlNotAllowedError
from service.schemas.base import LONGEST_URL
from service.settings.ip_addresses import IPAddress, is_private, is_public, parse_address

ANY_PUBLIC_HOST = "public"

_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535
_FORM = re.compile(r"https?://[^/?#@]+([/?#].*)?", re.IGNORECASE)
# Parsers treat these differently: some drop them, some read a backslash as a slash.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
# Browsers and C libraries read these as IPv4 addresses: 2130706433, 0177.1, 0x7f.0.0.1.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """The URL of a picture whose text passed all checks.

    Attributes:
        parsed: the URL without its fragment.
        host: the host name in ASCII, or the IP address without brackets.
        port: the port.
        named: whether the settings name exactly this host.
        address: the IP address, if the host is one.
    """

    parsed: httpx.URL
    host: str
    port: int
    named: bool
    address: IPAddress | None


@dataclass(frozen=True, slots=True)
class _Entry:
    host: str
    port: int | None
    subdomains: bool

    def covers(self, host: str, port: int) -> bool:
        fits = host.endswith(f".{self.host}") if self.subdomains else host == self.host
        return fits and (port in _PORTS.values() if self.port is None else port == self.port)


class UrlRules:
    """The hosts from which the settings allow pictures."""

    def __init__(self, hosts: Sequence[str], private_addresses: bool) -> None:
        """Read the entries.

        Args:
            hosts: `HOST`, `HOST:PORT`, `*.DOMAIN`, or `public` for any host with a public address;
                empty allows nothing.
            private_addresses: whether a host that is named in full may have a private address.

        Raises:
            ValueError: an entry has none of these forms.
        """
        self._public = ANY_PUBLIC_HOST in hosts
        self._entries = [_read_entry(host) for host in hosts if host != ANY_PUBLIC_HOST]
        self._private_addresses = private_addresses

    @property
    def allow_nothing(self) -> bool:
        """Whether no host is allowed."""
        return not self._public and not self._entries

    def check(self, text: str) -> ImageUrl:
        """Read and check the URL of a picture.

        Raises:
            InvalidUrlError: it is not an unambiguous http or https URL.
            UrlNotAllowedError: this server fetches no pictures, or none from this host.
        """
        if self.allow_nothing:
            raise UrlNotAllowedError(
                "This server does not fetch pictures: send the picture itself, as base64, as a "
                "data URL or as multipart/form-data. Its operator can allow hosts with "
                "LEGRAD_URL_HOSTS."
            )
        url, host = _parse(text)
        address = parse_address(host)
        port = url.port if url.port is not None else _PORTS[url.scheme]
        matching = [entry for entry in self._entries if entry.covers(host, port)]
        if not matching and not (self._public and port in _PORTS.values()):
            raise UrlNotAllowedError(
                f"This server does not fetch pictures from {host!r} on port {port}."
            )
        named = any(not entry.subdomains for entry in matching)
        checked = ImageUrl(url, host, port, named, address)
        if address is not None and not self.may_connect(checked, host):
            raise UrlNotAllowedError(f"{host!r} is not a public address.")
        return checked

    def follow(self, url: ImageUrl, location: str) -> ImageUrl:
        """Read and check the target of a redirect.

        Args:
            url: the URL that redirects.
            location: the target, absolute or relative.

        Raises:
            InvalidUrlError: see :meth:`check`.
            UrlNotAllowedError: see :meth:`check`; or the redirect leads from https to http.
        """
        # Checked before joining, which would hide ambiguous characters.
        _check_text(location)
        try:
            joined = url.parsed.join(location)
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidUrlError("The address cannot be read.") from error
        target = self.check(str(joined))
        if url.parsed.scheme == "https" != target.parsed.scheme:
            raise UrlNotAllowedError("The address leads from https to http.")
        return target

    def may_connect(self, url: ImageUrl, address: str) -> bool:
        """Return whether the server may connect to this IP address of the URL's host."""
        parsed = parse_address(address)
        if parsed is None:
            return False
        return is_public(parsed) or (url.named and self._private_addresses and is_private(parsed))


def _check_text(text: str) -> None:
    if not 0 < len(text) <= LONGEST_URL:
        raise InvalidUrlError(f"The address must have 1 to {LONGEST_URL} characters.")
    if _AMBIGUOUS.search(text):
        raise InvalidUrlError(
            "The address must not hold spaces, control characters or backslashes."
        )


def _parse(text: str) -> tuple[httpx.URL, str]:
    _check_text(text)
    if not _FORM.fullmatch(text):
        raise InvalidUrlError(
            "Write the address as https://host/path or http://host/path, without a user name."
        )
    try:
        url = httpx.URL(text).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidUrlError("The address cannot be read.") from error
    return url, _host_of(url)


def _host_of(url: httpx.URL) -> str:
    host = url.raw_host.decode("ascii")
    address = parse_address(host)
    if address is not None:
        return str(address)
    if not _NAME.fullmatch(host) or _NUMERIC_END.fullmatch(host):
        raise InvalidUrlError(
            f"{host!r} is neither a host name nor an IP address in its usual notation."
        )
    return host


def _read_entry(text: str) -> _Entry:
    subdomains = text.startswith("*.")
    name = text.removeprefix("*.")
    try:
        # An invented scheme: httpx drops the port if it is the usual one of a known scheme.
        url = httpx.URL(f"host://{name}")
        host = _host_of(url)
    except (httpx.InvalidURL, InvalidUrlError, ValueError) as error:
        raise ValueError(f"{text!r} is not a host: write HOST, HOST:PORT or *.DOMAIN") from error
    bad_port = url.port is not None and not 0 < url.port <= _LAST_PORT
    if url.userinfo or url.raw_path != b"/" or url.fragment or bad_port:
        raise ValueError(f"{text!r} is not a host: write HOST, HOST:PORT or *.DOMAIN")
    return _Entry(host, url.port, subdomains)
