"""FastAPI handler without a batcher: ``python -m benchmarks.peers.bare PORT NAME [PRETRAINED]``."""

import sys
from typing import Any

import uvicorn
from fastapi import Body, FastAPI

from benchmarks.peers import work


def main(port: int, name: str, pretrained: str | None) -> None:
    """Serve until the process ends; FastAPI runs the handler in its thread pool."""
    explainer = work.load(name, pretrained)
    app = FastAPI()

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/explain")
    def explain(body: dict[str, Any] = Body()) -> dict[str, Any]:  # noqa: B008
        return work.explain(explainer, [body])[0]

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] if sys.argv[3:] else None)
