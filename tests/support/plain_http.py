"""Clients of servers on this machine, over plain HTTP."""

from typing import Any

import httpx


def plain_client(url: str, **arguments: Any) -> httpx.Client:
    """Return a client of a server that has no certificate.

    A client that could check one reads all those that this machine trusts, which takes more
    processor time than twenty requests.
    """
    assert url.startswith("http://"), url
    return httpx.Client(base_url=url, verify=False, **arguments)
