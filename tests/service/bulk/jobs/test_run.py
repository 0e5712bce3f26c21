"""The end of a job, of which its exit status follows."""

from dataclasses import replace

import pytest

from service.bulk.jobs.run import Summary

WHOLE = Summary(
    inputs=3,
    rows=3,
    explained=0,
    known=3,
    failed=0,
    errors=0,
    skipped=0,
    repeated=0,
    output="file:///out",
)


@pytest.mark.parametrize(
    ("summary", "complete"),
    [
        (WHOLE, True),
        (replace(WHOLE, rows=2), False),
        (replace(WHOLE, errors=2), True),
        # At the second run the rows of the first, all with errors, are known.
        (replace(WHOLE, errors=3), False),
        (replace(WHOLE, known=0, failed=3, errors=3), False),
    ],
)
def test_a_job_is_complete_with_a_row_for_each_picture_and_not_only_errors(
    summary: Summary, complete: bool
) -> None:
    assert summary.is_complete is complete
