"""Parts of answers and outcomes that tests of hostile picture sites share."""

from typing import Any

import trustme

from tests.support.fetching_app import PICTURE, tls_for
from tests.support.picture_sites import answer

SHORT = answer(PICTURE, length=len(PICTURE) + 9)
CHUNKED = answer(length=-1, Transfer_Encoding="chunked")
CANCELLED = 'legrad_url_fetches_total{outcome="cancelled"}'
UNREACHABLE = (502, "url-unreachable")


def secure(authority: trustme.CA) -> dict[str, Any]:
    """Return the place of a site behind TLS."""
    tls = tls_for(authority, "secure.example")
    return {"host": "secure.example", "address": "1.0.0.1", "port": 443, "tls": tls}
