"""Progress of a job where stderr is no terminal."""

import json
import threading

import pytest

from service.bulk.jobs import progress


def test_without_a_terminal_progress_is_lines_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.01)
    asked = threading.Semaphore(0)

    def done() -> tuple[int, int]:
        asked.release()
        # A block that was computed twice.
        return 5, 1

    with progress.progress(4, done):
        # The first line is written once the second is asked for.
        assert asked.acquire(timeout=60)
        assert asked.acquire(timeout=60)
    first, *_ = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("seconds") >= 0
    assert first.pop("per_second") > 0
    assert first == {"event": "progress", "total": 4, "done": 4, "failed": 1}


def test_a_job_that_ends_before_the_first_look_shows_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with progress.progress(4, lambda: (4, 0)):
        pass
    (last,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (last["done"], last["total"]) == (4, 4)


def test_a_job_that_fails_shows_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with pytest.raises(KeyError), progress.progress(4, lambda: (4, 0)):
        raise KeyError
    assert capsys.readouterr().err == ""
