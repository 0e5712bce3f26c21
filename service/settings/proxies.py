"""Which peers may say on whose behalf they ask."""

import ipaddress


def trusted_networks(proxies: tuple[str, ...]) -> list[str]:
    """The networks of the setting, as uvicorn takes them.

    IPv4 ones twice: a socket for both kinds of addresses sees IPv4 peers as mapped into IPv6.

    Raises:
        ValueError: one is not an address or a network.
    """
    networks: list[str] = []
    for text in proxies:
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
