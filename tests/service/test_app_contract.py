"""schemathesis checks every operation of the published contract with good and bad requests.

A new route is covered as soon as it is in the contract; it needs an example there that the
built-in model can answer.
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
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.paths import CONTRACT
from tests.support.running_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Case = schemathesis.Case[Any]

_KEY = "the key of these tests"
_DEADLINE = "X-Request-Timeout-Ms"
# Operations without a successful answer in this test, with the reason.
_ONLY_REFUSED = {
    "GET /explain/{request_id}/progress": "answers only while that request is in flight",
}
_REFUSALS = (400, 406, 408, 413, 422)
_BEYOND_WORDS = {
    # Generators of clients understand no schema that says which fields stand for each other.
    # The settings limit the number of parts.
    "/": r"Give (prompts, targets, or both|either (image or images|text or texts|index or label))|"
    r"it has more than \d+ files",
    # Nor JSON in a query; and a part of the body can stand for a parameter.
    "/explanations/": r'appears more than once|is not JSON|"message":"(targets|options|output)[.:]',
    # The protocol, not the schema, defines the tensors, the binary data after the JSON, and the
    # names of parameters.
    "/v2/": r'"field":"(inputs|outputs|parameters|body")',
}
# The HTTP parser refuses longer ones before the application sees them.
_LONGEST_QUERY = 20_000
# Codes of requests that do not fit the contract.
_CONTRACT_ERRORS = {"invalid-request", "malformed-body", "unsupported-media-type"}
_CONFIG = SchemathesisConfig.from_dict(
    {
        "seed": 1,
        "headers": {"Authorization": f"Bearer {_KEY}"},
        "generation": {
            "deterministic": True,
            "max-examples": 40,
            "database": "none",
            # HTTP lets a server ignore unknown headers.
            "allow-extra-parameters": False,
        },
        # Requests follow from the contract alone, not from earlier answers.
        "phases": {
            "coverage": {"extra-data-sources": {"responses": False}},
            "fuzzing": {
                "extra-data-sources": {"responses": False},
                "error-feedback": {"enabled": False},
            },
        },
        "checks": {
            # A list longer than the contract allows may exceed the limit on the size of bodies.
            "negative_data_rejection": {
                "expected-statuses": [400, 401, 403, 404, 405, 406, 408, 413, 415, 422, 429]
            },
        },
    }
)
# The longest lists of the contract take tens of megabytes. This is above the server's own
# settings, so that longer lists are still refused.
_LONGEST_LIST = 1100


def _contract() -> dict[str, Any]:
    text = CONTRACT.read_text()
    shortened = re.sub(
        r"(?<=maxItems: )\d+", lambda found: str(min(int(found[0]), _LONGEST_LIST)), text
    )
    document: dict[str, Any] = yaml.safe_load(shortened)
    return document


schema = from_dict(_contract(), config=_CONFIG)
LABELS = [each.ok().label for each in schema.get_all_operations() if isinstance(each, Ok)]
assert len(LABELS) == len(list(schema.get_all_operations()))
_statuses: defaultdict[str, set[int]] = defaultdict(set)


@pytest.fixture(scope="module")
def server(tiny_model: str) -> Iterator[Server]:
    """A server with a fast model under the id that the examples of the contract name."""
    with Server(f"starter={tiny_model}", key=_KEY) as started:
        started.wait_for_health()
        yield started


def check_contract(case: Case, server: Server) -> None:
    """Send one request, and check that its answer keeps to the contract."""
    if len(str(case.query)) > _LONGEST_QUERY:
        return
    response = case.call(base_url=server.url)
    if case.method == "DELETE":
        # The other operations need the model loaded.
        loaded = server.client.post("/models/starter/load?wait_seconds=60")
        assert loaded.status_code in (200, 202)
    _statuses[case.operation.label].add(response.status_code)
    load_all_checks()
    case.validate_response(response, excluded_checks=_meaningless(case, response))


def add_contract_tests() -> None:
    """Define one test for each operation, because pytest-xdist needs an id for each.

    The tests of one function of schemathesis would all have the same id.
    """
    for label in LABELS:

        def test(case: Case, server: Server) -> None:
            check_contract(case, server)

        name = re.sub(r"\W+", "_", label.lower()).strip("_")
        globals()[f"test_{name}_keeps_to_the_contract"] = schema.include(name=label).parametrize()(
            test
        )


add_contract_tests()


def test_every_operation_was_answered_and_refused() -> None:
    wanted = set(LABELS)
    assert _statuses.keys() == wanted
    kinds = {label: {status // 100 for status in _statuses[label]} for label in wanted}
    expected = {label: {4} if label in _ONLY_REFUSED else {2, 4} for label in wanted}
    assert {label: found for label, found in kinds.items() if not found >= expected[label]} == {}


def _meaningless(case: Case, response: Response) -> list[schemathesis.CheckFunction]:
    """Return the checks that do not apply to this answer, each with its reason."""
    assert case.meta is not None
    excluded: list[schemathesis.CheckFunction] = []
    if case.meta.generation.mode.is_positive and response.status_code in _REFUSALS:
        # Sizes, layers, classes and embeddings depend on the model, and no schema tells base64 of a
        # picture from other text. So a request that fits the contract may be refused for its
        # values, but not with a code of requests that do not fit it.
        codes = _CONTRACT_ERRORS & set(map(str, response.json().values()))
        assert not codes or _beyond_words(case, response.text), response.text
        excluded.append(positive_data_acceptance)
    if case.media_type == "multipart/form-data" and response.status_code == 200:
        # Forms have neither types nor empty lists, so that a wrong value can become a valid one.
        excluded.append(negative_data_rejection)
    if response.status_code == 504 and int(case.headers.get(_DEADLINE, 10**9)) < 60_000:
        # The caller's own deadline was too short.
        excluded.append(schemathesis.checks.not_a_server_error)
    return excluded


def _beyond_words(case: Case, answer: str) -> bool:
    """Return whether a request breaks a rule that the contract cannot express."""
    # The number in the header is an offset in the body.
    return "Inference-Header-Content-Length" in case.headers or any(
        case.path.startswith(prefix) and re.search(rule, answer)
        for prefix, rule in _BEYOND_WORDS.items()
    )
