"""Checks of answers and of problem details."""

from typing import Any

import httpx
import jsonschema
import yaml

from tests.support.paths import CONTRACT

_COMPONENTS = yaml.safe_load(CONTRACT.read_text())["components"]


def validator_of(name: str) -> jsonschema.Draft202012Validator:
    """Return the validator of one schema of the published contract."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": _COMPONENTS}
    return jsonschema.Draft202012Validator(schema)


def check_against_contract(answer: Any, name: str) -> None:
    """Check a JSON body against one schema of the published contract."""
    validator_of(name).validate(answer)


def refused(response: httpx.Response, status: int, error: str, field: str | None) -> str:
    """Check that an answer is the given problem; return its detail."""
    problem = response.json()
    assert response.status_code == status, problem
    assert response.headers["content-type"] == "application/problem+json"
    assert (problem["error"], problem.get("field")) == (error, field), problem
    assert problem["type"] == f"urn:legrad:problem:{error}"
    assert problem["title"]
    assert problem["status"] == status
    assert problem["instance"] == "/explain"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(response.content) < 8000
    detail: str = problem["detail"]
    return detail
