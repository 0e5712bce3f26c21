"""The Markdown page and the JSON file of a run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.accelerator.findings import (
    EIGHT_TARGETS,
    NUMBERS,
    ONE_TARGET,
    OVER_ENGINE,
    OVER_FORWARD,
    Findings,
    Serving,
    Speed,
)
from legrad_engine.legrad.switches import Acceleration

_MODES: tuple[Acceleration, ...] = ("off", "kernel", "graphs", "all")
_MISSING = "-"


def write(findings: Findings, page: Path, data: Path) -> None:
    """Write both files."""
    for path in (page, data):
        path.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(findings), encoding="utf-8")
    data.write_text(json.dumps(asdict(findings), indent=2) + "\n", encoding="utf-8")


def render(findings: Findings) -> str:
    """Return the page."""
    parts = [
        "# Figures of a GPU",
        "Written by `make accelerator`: models with seeded random weights, medians of one run. "
        "`-` stands for a figure that was not measured.",
        _table(("", ""), ((name, _plain(value)) for name, value in findings.environment.items())),
        "## Aims",
        _table(("aim", "measured", "verdict"), _aims(findings)),
        "## Maps against the CPU in float64",
        "Differences are relative to the largest value of the exact maps. `acceleration` is "
        "`LEGRAD_ACCELERATE`; the last difference is that from the same dtype without it. float32 "
        "must agree within 1e-4; half precision must correlate at least 0.99, and acceleration may "
        "change it by 0.02.",
        _table(
            ("family", "dtype", "acceleration", "in use", "difference", "least correlation",
             "from plain", "verdict"),
            (
                (each.family, each.dtype, each.acceleration, each.in_use, f"{each.error:.1e}",
                 f"{each.correlation:.5f}", f"{each.from_plain:.1e}", each.verdict)
                for each in findings.agreements
            ),
        ),
        "## Time over a plain forward pass",
        "Pixels are on the device beforehand, maps are copied to the CPU. Columns `1 ...` and "
        "`8 ...` are the time of an explanation with that many targets over that of the model's "
        "own forward pass, by acceleration. Graphs are captured up to batches of 16; beyond, `all` "
        "is the kernel alone.",
    ]  # fmt: skip
    for model in dict.fromkeys(each.model for each in findings.speeds):
        parts += [f"### {model}", _speed_table(model, findings.speeds)]
    parts += [
        "## The service, saturated",
        f"Engine alone, prepared pictures, 4 targets: {_rate(findings.engine_images_per_second)} "
        "images per second. Requests have one picture of 256 pixels and 4 prompts. `busy` is the "
        "share of the time in which each part worked; `limit` is the busiest part, if it worked "
        "for 80 % of the time.",
        _table(
            ("picture processes", "output", "answer", "images/s", "of the engine", "p50 ms",
             "p99 ms", "busy", "limit"),
            (_serving_row(each, findings.engine_images_per_second) for each in findings.servings),
        ),
    ]  # fmt: skip
    for title, entries in (
        ("Not measured", findings.not_measured),
        ("Warnings of the engine", findings.warnings),
    ):
        if entries:
            parts += [f"## {title}", "\n".join(f"- {_plain(entry)}" for entry in entries)]
    return "\n\n".join(parts) + "\n"


def _aims(findings: Findings) -> list[tuple[str, str, str]]:
    rows = []
    for targets, bound in OVER_FORWARD.items():
        noun = "target" if targets == ONE_TARGET else "targets"
        for model in dict.fromkeys(each.model for each in findings.speeds):
            kept = [each for each in findings.speeds if each.model == model]
            # A saturated server computes the batches with the most images per second.
            fastest = max(kept, key=lambda each: each.batch / each.forward)
            ratio, mode = min((ratio, mode) for mode, ratio in fastest.ratios(targets).items())
            rows.append(
                (
                    f"{model}, {targets} {noun}: at most {bound:g} x a plain forward pass",
                    f"{ratio:.2f} x (batch {fastest.batch}, {mode})",
                    "met" if ratio <= bound else "missed",
                )
            )
    case = f"HTTP at least {OVER_ENGINE:g} x the engine, 256 pixels, numbers out"
    rates = [each.images_per_second for each in findings.servings if each.output == NUMBERS]
    engine = findings.engine_images_per_second
    if rates and engine:
        share = max(rates) / engine
        rows.append((case, f"{share:.2f} x", "met" if share >= OVER_ENGINE else "missed"))
    else:
        rows.append((case, _MISSING, "not measured"))
    if not findings.speeds:
        rows.append(("time over a plain forward pass", _MISSING, "not measured"))
    missed = sum(each.verdict == "missed" for each in findings.agreements)
    rows.append(
        (
            "maps agree with the CPU in float64",
            f"{len(findings.agreements) - missed} of {len(findings.agreements)} cases",
            "not measured" if not findings.agreements else "missed" if missed else "met",
        )
    )
    return rows


def _speed_table(model: str, speeds: Iterable[Speed]) -> str:
    kept = [each for each in speeds if each.model == model]
    columns = [
        (targets, mode)
        for targets in (ONE_TARGET, EIGHT_TARGETS)
        for mode in _MODES
        if any(mode in each.ratios(targets) for each in kept)
    ]
    return _table(
        ("batch", "forward ms", "images/s", "share of peak", *(f"{t} {m}" for t, m in columns)),
        (
            (
                str(each.batch),
                f"{1000 * each.forward:.2f}",
                _rate(each.batch / each.forward),
                f"{each.share_of_peak:.0%}",
                *(_ratio(each.ratios(targets).get(mode)) for targets, mode in columns),
            )
            for each in kept
        ),
    )


def _serving_row(found: Serving, engine: float | None) -> tuple[str, ...]:
    return (
        str(found.processes),
        found.output,
        found.answer,
        _rate(found.images_per_second),
        _ratio(found.images_per_second / engine if engine else None),
        f"{1000 * found.p50:.0f}",
        f"{1000 * found.p99:.0f}",
        ", ".join(f"{part} {share:.0%}" for part, share in found.busy.items()),
        found.limit,
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _rate(value: float | None) -> str:
    return _MISSING if value is None else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.2f}"
