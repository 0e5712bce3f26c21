"""Every operation of the published contract, by what schemathesis makes of it, good and bad.

A new route is tested because it is in the contract; it needs an example there with which it gives
an answer from the built-in model.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import yaml
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.errors import InvalidSchema
from schemathesis.core.result import Ok, Result
from schemathesis.core.transport import Response
from schemathesis.openapi import from_dict
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.paths import CONTRACT
from tests.support.running_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Case = schemathesis.Case[Any]

_KEY = "the key of these tests"
_DEADLINE = "X-Request-Timeout-Ms"
# Operations that nothing can be answered to here, with the reason.
_ONLY_REFUSED = {
    "GET /explain/{request_id}/progress": "answers only while that request is in flight",
}
_REFUSALS = (400, 406, 408, 413, 422)
_BEYOND_WORDS = {
    # One parameter cannot be said to do in place of another, nor a part of the body in its place.
    "/explanations/": r"Give prompts, targets, or both\.|appears more than once\.",
    # Which tensors there must be, how bytes follow JSON, and what a parameter is called, is the
    # protocol's matter.
    "/v2/": r'"field":"(inputs|parameters|body")',
}
# Longer ones are refused before they are requests, by whatever reads HTTP first.
_LONGEST_QUERY = 20_000
# Refusals that say that a request does not fit the contract.
_CONTRACT_ERRORS = {"invalid-request", "malformed-body", "unsupported-media-type"}
_CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "headers": {"Authorization": f"Bearer {_KEY}"},
        "generation": {
            "deterministic": True,
            "max-examples": 40,
            "database": "none",
            # HTTP lets a server ignore headers and query parameters that it does not know.
            "allow-extra-parameters": False,
        },
        # What is sent follows from the contract alone, not from what was answered before.
        "phases": {
            "coverage": {"extra-data-sources": {"responses": False}},
            "fuzzing": {
                "extra-data-sources": {"responses": False},
                "error-feedback": {"enabled": False},
            },
        },
        "checks": {
            # A list of more items than the contract allows may be more bytes than the server reads.
            "negative_data_rejection": {
                "expected-statuses": [400, 401, 403, 404, 405, 406, 408, 413, 415, 422, 429]
            },
        },
    }
)
# Lists as long as the contract could ever allow are tens of megabytes; this is more than the
# server's own settings allow, so one more is refused as well.
_LONGEST_LIST = 1100


def _contract() -> dict[str, Any]:
    text = CONTRACT.read_text()
    shortened = re.sub(
        r"(?<=maxItems: )\d+", lambda found: str(min(int(found[0]), _LONGEST_LIST)), text
    )
    document: dict[str, Any] = yaml.safe_load(shortened)
    return document


schema = from_dict(_contract(), config=_CONFIG)
_statuses: defaultdict[str, set[int]] = defaultdict(set)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With the model that the contract's examples name."""
    with Server("starter", key=_KEY) as started:
        started.wait_for_health()
        yield started


@schema.parametrize()
def test_every_operation_keeps_to_the_contract(case: Case, server: Server) -> None:
    if len(str(case.query)) > _LONGEST_QUERY:
        return
    response = case.call(base_url=server.url)
    if case.method == "DELETE":
        # The other operations are asked about a model that is there.
        loaded = server.client.post("/models/starter/load?wait_seconds=60")
        assert loaded.status_code in (200, 202)
    _statuses[case.operation.label].add(response.status_code)
    load_all_checks()
    case.validate_response(response, excluded_checks=_meaningless(case, response))


def test_every_operation_was_answered_and_refused() -> None:
    wanted = {_label_of(operation) for operation in schema.get_all_operations()}
    assert _statuses.keys() == wanted
    kinds = {label: {status // 100 for status in _statuses[label]} for label in wanted}
    expected = {label: {4} if label in _ONLY_REFUSED else {2, 4} for label in wanted}
    assert {label: found for label, found in kinds.items() if not found >= expected[label]} == {}


def _label_of(operation: Result[APIOperation[Any, Any, Any, Any], InvalidSchema]) -> str:
    assert isinstance(operation, Ok)
    return operation.ok().label


def _meaningless(case: Case, response: Response) -> list[schemathesis.CheckFunction]:
    """The checks that cannot be right about this answer; each with its reason."""
    assert case.meta is not None
    excluded: list[schemathesis.CheckFunction] = []
    if case.meta.generation.mode.is_positive and response.status_code in _REFUSALS:
        # Which sizes, layers, classes and embeddings there are is the model's matter, not the
        # contract's, and no schema tells base64 of a picture from other text. So a good request
        # may be refused for what it asks, but not as one that does not fit the contract.
        codes = _CONTRACT_ERRORS & set(map(str, response.json().values()))
        assert not codes or _beyond_words(case, response.text), response.text
        excluded.append(positive_data_acceptance)
    if case.media_type == "multipart/form-data" and response.status_code == 200:
        # A form knows neither types nor empty lists: what is wrong is gone once it is sent.
        excluded.append(negative_data_rejection)
    if response.status_code == 504 and int(case.headers.get(_DEADLINE, 10**9)) < 60_000:
        # The caller asked for no more time than that.
        excluded.append(schemathesis.checks.not_a_server_error)
    return excluded


def _beyond_words(case: Case, answer: str) -> bool:
    """Whether a request breaks a rule for which contracts have no words."""
    # The header's number is a place in the body.
    return "Inference-Header-Content-Length" in case.headers or any(
        case.path.startswith(prefix) and re.search(rule, answer)
        for prefix, rule in _BEYOND_WORDS.items()
    )
