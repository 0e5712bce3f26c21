"""LitServe with its batching: ``python -m benchmarks.peers.batched PORT NAME [PRETRAINED]``."""

import sys
from typing import Any

import litserve

from benchmarks.peers import work

MAX_BATCH = 16
# Batch timeout in LitServe's own examples.
BATCH_TIMEOUT_SECONDS = 0.01


class ExplainApi(litserve.LitAPI):  # type: ignore[misc]
    """LitServe's interface of a model: loaded once in a worker, called with batches."""

    def __init__(self, name: str, pretrained: str | None) -> None:
        super().__init__(
            max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_SECONDS, api_path="/explain"
        )
        self._reference = (name, pretrained)

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model in the worker's process."""
        self._explainer = work.load(*self._reference)

    def decode_request(self, request: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the body unchanged."""
        return request

    def predict(self, inputs: list[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """Explain one batch."""
        return work.explain(self._explainer, inputs)

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the answer unchanged."""
        return output


def main(port: int, name: str, pretrained: str | None) -> None:
    """Serve until the process ends."""
    server = litserve.LitServer(ExplainApi(name, pretrained), accelerator="cpu", timeout=30)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] if sys.argv[3:] else None)
