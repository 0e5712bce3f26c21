"""IP addresses: the notation of trusted proxies, and where pictures may be fetched from.

The rules for pictures do not rely on Python's ``is_global`` alone. It differs between releases,
judges IPv6 addresses with an embedded IPv4 address by their own prefix, and knows nothing of the
addresses at which clouds hand out credentials. An address is public only if ``is_global`` and these
rules agree.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IPAddress = IPv4Address | IPv6Address

UNIX = "unix"
"""Stands for every client of a Unix socket, which has no address."""


def _networks(*texts: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text) for text in texts)


# The special-purpose registries of RFC 6890 (current state), multicast and reserved addresses.
_SPECIAL_IPV4 = _networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
# All global unicast addresses lie in this block; mapped, compatible, link-local, unique local and
# multicast addresses lie outside. The special ones inside: protocol assignments (with Teredo),
# documentation, 6to4.
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_SPECIAL_IPV6 = _networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
# Networks without IPv4 reach IPv4 addresses here; the last 32 bits are that address (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")

_PRIVATE = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
)
# Metadata services outside link-local: Azure, Alibaba, Amazon and Google over IPv6.
_METADATA = _networks("168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254", "fd20:ce::254")


def parse_address(text: str) -> IPAddress | None:
    """Parse an address in standard notation, or return None: no decimal, octal or short IPv4."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def is_public(address: IPAddress) -> bool:
    """Return whether the address belongs to the public internet.

    Mapped, compatible, 6to4 and Teredo addresses never do, whatever IPv4 address they embed. A
    NAT64 address counts as its embedded address, because a network without IPv4 has no other way.
    """
    if _in(address, _METADATA) or not address.is_global or address.is_multicast:
        return False
    if isinstance(address, IPv4Address):
        return not _in(address, _SPECIAL_IPV4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_IPV6 and not _in(address, _SPECIAL_IPV6)


def is_private(address: IPAddress) -> bool:
    """Return whether the address belongs to a private network or is a loopback address.

    Link-local addresses are neither public nor private here: clouds hand out credentials there.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    return _in(address, _PRIVATE) and not _in(address, _METADATA)


def _in(address: IPAddress, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(address in network for network in networks)


def trusted_networks(proxies: tuple[str, ...]) -> list[str]:
    """Return the networks of the proxies in uvicorn's notation.

    Each IPv4 network is also given as IPv4-mapped IPv6: a dual-stack socket sees IPv4 peers so.

    Args:
        proxies: addresses and networks, as operators write them.

    Raises:
        ValueError: an entry is neither an address nor a network.
    """
    networks: list[str] = []
    for text in proxies:
        if text == UNIX:
            networks.append(text)
            continue
        try:
            network = ip_network(text)
        except ValueError as error:
            raise ValueError(
                f"{text!r} is not an address or a network, such as 10.0.0.7 or 10.0.0.0/24: {error}"
            ) from error
        networks.append(str(network))
        if network.version == 4:
            networks.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return networks
