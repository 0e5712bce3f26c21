"""Log explanations to MLflow: python examples/clients/log_to_mlflow.py PICTURE PROMPT...

One run for each picture: similarities and statistics as metrics, overlays and raw maps as
artifacts. Needs ``pip install ./clients/python mlflow``; MLflow chooses the destination
(``MLFLOW_TRACKING_URI``).
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from legrad_client import Explanation, LegradClient


def log(picture: str, explanation: Explanation) -> None:
    """Log one picture's explanation as a run."""
    with mlflow.start_run(run_name=Path(picture).name), tempfile.TemporaryDirectory() as folder:
        mlflow.log_params(
            {
                "picture": Path(picture).name,
                "model": explanation.model,
                "layers": list(explanation.layers),
                "score": explanation.score,
                "request_id": explanation.request_id,
            }
        )
        overlays, maps = Path(folder, "overlays"), Path(folder, "maps")
        overlays.mkdir()
        maps.mkdir()
        for target in explanation:
            # MLflow allows only these characters in names, and a slash would need a folder.
            name = re.sub(r"[^\w. -]", "_", target.target)
            mlflow.log_metrics(
                {
                    f"similarity/{name}": target.similarity,
                    f"entropy/{name}": target.statistics.entropy,
                    f"border_mass/{name}": target.statistics.border_mass,
                }
            )
            if target.overlay is not None:
                target.save_overlay(overlays / name)
            np.save(maps / f"{name}.npy", target.map)
        mlflow.log_artifacts(folder)


def main() -> None:
    """Explain a picture with a running server, and log the explanation."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    picture, *prompts = sys.argv[1:]
    with LegradClient(os.environ.get("LEGRAD_URL", "http://localhost:8000")) as client:
        log(picture, client.explain(picture, prompts))


if __name__ == "__main__":
    main()
