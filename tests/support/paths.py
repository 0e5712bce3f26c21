"""The folders and files of the repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "openapi.yaml"
DOCKER = ROOT / "docker"
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
TESTS = ROOT / "tests"
