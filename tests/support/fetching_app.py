"""An application that fetches pictures from a simulated internet."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import trustme

from tests.support.picture_sites import PictureSite, Script, StubNetwork
from tests.support.pictures import encoded
from tests.support.running_app import RunningApp

PICTURE = encoded()


class FetchingApp(RunningApp):
    """An application that allows ``public`` hosts and has small limits, unless set otherwise."""

    def __init__(self, models: str, **settings: Any) -> None:
        self.network = StubNetwork()
        allowed: dict[str, Any] = {
            "url_hosts": "public",
            "url_timeout_seconds": 20.0,
            "url_max_bytes": 300_000,
            "url_max_redirects": 2,
            "url_max_fetches": 4,
        }
        super().__init__(models, network=self.network, **(allowed | settings))

    def explain_url(self, url: str, **headers: str) -> httpx.Response:
        """Ask for an explanation of the picture at a URL."""
        return self.explain({"image": {"url": url}, "prompts": ["a cat"]}, **headers)

    @contextmanager
    def site(
        self, script: Script, host: str = "pictures.example", **place: Any
    ) -> Iterator[tuple[str, PictureSite]]:
        """Yield the URL of a picture and its site in the simulated internet.

        Check in the end that no connection to the site is open.
        """
        with PictureSite(script, place.pop("tls", None)) as site:
            yield self.network.serve(host, site, **place), site
            site.wait_for_open(0)


@contextmanager
def trusting(authority: trustme.CA) -> Iterator[None]:
    """Let applications that start in this context trust the authority, as an operator would."""
    with authority.cert_pem.tempfile() as path, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_CERT_FILE", path)
        yield


def tls_for(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Return the TLS context of a server, with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def refused(response: httpx.Response, status: int, error: str, field: str = "image.url") -> str:
    """Check that an answer is the expected problem; return its detail."""
    problem = response.json()
    found = (response.status_code, problem.get("error"), problem.get("field"))
    assert found == (status, error, field), problem
    detail: str = problem["detail"]
    return detail
