"""The OpenAPI document as the server sends it."""

from service.app import openapi_document
from tests.support.running_app import RunningApp


def test_the_contract_is_sent_whole_with_the_address_of_the_server(running: RunningApp) -> None:
    answer = running.client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {**openapi_document(running.app), "servers": [{"url": "."}]}
