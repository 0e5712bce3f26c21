"""Attacks that need a resolver, sites or a clock of their own, in this process."""

import secrets
import statistics
import time
from pathlib import Path

from service.http.keys import KeyRing
from service.settings.keys import ApiKey, digest
from tests.attack.outcomes import Outcome
from tests.support.fetching_app import PICTURE, FetchingApp
from tests.support.picture_sites import answer, redirects, sends
from tests.support.tiny_model import save_model

_KEYS = 200
_ROUNDS = 3_000
# Difference of medians that noise alone makes.
_MOST_DIFFERENCE = 0.05


def key_timing() -> Outcome:
    """Compare the time of looking up the first key, the last one and none."""
    keys = [secrets.token_urlsafe(32) for _ in range(_KEYS)]
    ring = KeyRing(
        [
            ApiKey(name=f"k{n}", sha256=digest(key.encode()).hex(), scopes=frozenset({"explain"}))
            for n, key in enumerate(keys)
        ]
    )
    given = {
        "first": keys[0].encode(),
        "last": keys[-1].encode(),
        "none": secrets.token_urlsafe(32).encode(),
        "almost the first": keys[0][:-1].encode() + b"!",
    }
    seconds: dict[str, list[float]] = {name: [] for name in given}
    began = time.monotonic()
    for _ in range(_ROUNDS):
        # In turns, because the speed of a machine varies.
        for name, key in given.items():
            start = time.perf_counter()
            ring.find(key)
            seconds[name].append(time.perf_counter() - start)
    medians = [statistics.median(each) for each in seconds.values()]
    spread = max(medians) / min(medians) - 1
    reason = "" if spread < _MOST_DIFFERENCE else "the time tells which key is right"
    name = f"timing of a look-up differs by {spread:.1%}"
    return Outcome("keys", name, "", time.monotonic() - began, 0.0, None, reason)


def url_cases(folder: Path, only: str) -> list[Outcome]:
    """Fetch pictures from names that change their address, and through chains of redirects."""
    if only and only not in "urls rebinding, chains and private addresses":
        return []
    outcomes = []
    with FetchingApp(save_model(folder, "tiny")) as fetching:
        hosts = fetching.network.hosts
        for name, addresses in {
            "rebinding between two requests": [["8.8.4.4"], ["127.0.0.1"]],
            "a private address beside a public one": [["8.8.4.4", "10.0.0.1"], ["169.254.169.254"]],
            "an IPv4 address within IPv6": [["8.8.4.4"], ["::ffff:127.0.0.1"]],
        }.items():
            with fetching.site(sends(answer(PICTURE))) as (url, _):
                hosts["pictures.example"] = iter(addresses).__next__
                before = len(fetching.network.connected)
                began = time.monotonic()
                statuses = [fetching.explain_url(url).status_code for _ in addresses]
                outcomes.append(
                    _fetched(name, statuses, fetching.network.connected[before:], began)
                )
        for target in ("http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest"):
            with fetching.site(redirects(target)) as (url, _):
                before = len(fetching.network.connected)
                began = time.monotonic()
                statuses = [200, fetching.explain_url(url).status_code]
                found = fetching.network.connected[before:]
                outcomes.append(_fetched(f"redirect to {target}", statuses, found, began))
        with fetching.site(redirects("/again")) as (url, _):
            began = time.monotonic()
            statuses = [200, fetching.explain_url(url).status_code]
            outcomes.append(_fetched("an endless chain of redirects", statuses, [], began))
    return outcomes


def _fetched(
    name: str, statuses: list[int], connected: list[tuple[str, int]], began: float
) -> Outcome:
    private = [host for host, _ in connected if host not in ("8.8.4.4", "8.8.8.8", "9.9.9.9")]
    reason = f"connects to {private[0]}" if private else ""
    if not reason and not 400 <= statuses[-1] < 600:
        reason = "is not refused"
    told = ", ".join(map(str, statuses))
    return Outcome("urls", name, told, time.monotonic() - began, 0.0, None, reason)
