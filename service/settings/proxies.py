"""The notation of trusted proxies."""

import ipaddress

UNIX = "unix"
"""Stands for every client of a Unix socket, which has no address."""


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
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(
                f"{text!r} is not an address or a network, such as 10.0.0.7 or 10.0.0.0/24: {error}"
            ) from error
        networks.append(str(network))
        if network.version == 4:
            networks.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return networks
