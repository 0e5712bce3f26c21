"""Explain a picture with a running server: python examples/clients/explain.py PICTURE PROMPT..."""

import os
import sys

from legrad_client import LegradClient

if len(sys.argv) < 3:
    raise SystemExit(__doc__)
picture, *prompts = sys.argv[1:]
with LegradClient(os.environ.get("LEGRAD_URL", "http://localhost:8000")) as client:
    explanation = client.explain(picture, prompts)
for target in explanation:
    print(f"{target.target}: {target.similarity:.3f}, peak at {target.statistics.peak_position}")
    if target.overlay is not None:
        target.save_overlay(target.target.replace("/", " "))
