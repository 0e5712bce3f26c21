"""The promises of the operations page name tests that exist."""

import re

from tests.support.paths import ROOT


def test_every_promise_is_held_by_a_test_that_exists() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 30
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text())
    ]
    assert missing == []
