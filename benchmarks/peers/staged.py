"""mosec with its batching: ``python -m benchmarks.peers.staged PORT NAME [PRETRAINED]``."""

import os
import sys
from typing import Any

from mosec import Server, Worker

from benchmarks.peers import work

MAX_BATCH = 16
# Of mosec's own examples.
MAX_WAIT_MILLISECONDS = 10
# The worker runs in a process of its own, which inherits the environment.
_NAME, _PRETRAINED = "PEER_MODEL", "PEER_PRETRAINED"


class ExplainWorker(Worker):  # type: ignore[misc]
    """mosec's interface of a model: loaded once in a worker, called with batches."""

    def __init__(self) -> None:
        super().__init__()
        self._explainer = work.load(os.environ[_NAME], os.environ.get(_PRETRAINED))

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Explain one batch."""
        return work.explain(self._explainer, data)


def main(port: int, name: str, pretrained: str | None) -> None:
    """Serve until the process ends."""
    os.environ[_NAME] = name
    if pretrained is not None:
        os.environ[_PRETRAINED] = pretrained
    # mosec reads its options from the command line.
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(port), "--timeout", "600000"]
    sys.argv += ["--log-level", "warning"]
    server = Server()
    server.append_worker(
        ExplainWorker,
        max_batch_size=MAX_BATCH,
        max_wait_time=MAX_WAIT_MILLISECONDS,
        route="/explain",
    )
    server.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] if sys.argv[3:] else None)
