"""Figures of an evaluation as JSON and Markdown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from legrad_engine.evaluation.options import MapOptions
from legrad_engine.evaluation.published import published_figure
from legrad_engine.targets.templates import resolve_templates
from service.bulk.evaluation.run import Evaluation, Outcome, RunRecords
from service.bulk.questions import software

JSON_NAME = "results.json"
MARKDOWN_NAME = "results.md"
_MOST_FAILURES = 20


@dataclass(frozen=True)
class Summary:
    """The results of an evaluation.

    Attributes:
        content: all results as JSON values.
        markdown: the same as tables for people.
    """

    content: dict[str, Any]
    markdown: str

    def write(self, folder: Path) -> None:
        """Write both into a folder.

        Raises:
            OSError: they cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.content, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / JSON_NAME).write_text(text + "\n", encoding="utf-8")
        (folder / MARKDOWN_NAME).write_text(self.markdown, encoding="utf-8")


def summarize(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> Summary:
    """Compute the figures of an evaluation from its journal.

    Args:
        evaluation: the evaluation, which has weights.
        outcomes: its samples.
    """
    question = evaluation.question
    runs = evaluation.records(outcomes)
    templates = question.maps.templates
    content: dict[str, Any] = {
        "model": question.reference.without_folders(question.model),
        "weights": evaluation.weights,
        "data": {
            "kind": question.kind,
            "title": evaluation.data_set.title,
            "split": question.within.split,
            "classes": len(evaluation.data_set.classes),
            "samples_in_all": len(evaluation.data_set),
            "samples": evaluation.samples,
        },
        "options": {
            "layers": question.maps.layers,
            "score": question.maps.score,
            "size": question.maps.size,
            "fit": question.maps.fit,
            "templates": templates if isinstance(templates, str) else list(templates or ["{}"]),
        },
        "software": software(),
        "protocols": [
            {
                "name": protocol.name,
                "title": protocol.title,
                "conventions": list(protocol.conventions),
                "methods": [
                    _of_method(evaluation, each) for each in runs if each.run.protocol is protocol
                ],
            }
            for protocol in evaluation.protocols
        ],
    }
    return Summary(content, _markdown(content))


def _of_method(evaluation: Evaluation, found: RunRecords) -> dict[str, Any]:
    run, question = found.run, evaluation.question
    figures = []
    usual = _is_usual(evaluation)
    # Without a sample every figure would be undefined, and a sum of nothing 0.
    for figure in run.protocol.summarize(found.records) if found.records else ():
        known = published_figure(
            question.model, question.kind, run.protocol.name, run.method, figure.name
        )
        figures.append(
            {
                "name": figure.name,
                "value": figure.value,
                "shown": figure.shown,
                "better": figure.better,
                "published": None if known is None else known.value,
                "source": None
                if known is None
                else known.source + ("" if usual else " (with other options or samples)"),
            }
        )
    return {
        "method": run.method,
        "measured": len(found.records),
        "empty": len(found.empty),
        "failed": found.failed,
        "figures": figures,
    }


def _is_usual(evaluation: Evaluation) -> bool:
    """Return whether the whole data set is measured with the default options."""
    maps = replace(evaluation.question.maps, templates=None)
    templates = resolve_templates(evaluation.question.maps.templates)
    return (
        maps == MapOptions()
        and templates == (evaluation.data_set.template,)
        and evaluation.samples == len(evaluation.data_set)
    )


def _markdown(content: dict[str, Any]) -> str:
    data, options = content["data"], content["options"]
    chosen = (
        "all" if data["samples"] == data["samples_in_all"] else f"of {data['samples_in_all']:,}"
    )
    said = "; ".join(f"{name} {_text(value)}" for name, value in options.items() if value)
    lines = [
        f"# {content['model']} on {data['title']}",
        "",
        f"{data['samples']:,} samples ({chosen}), {data['classes']:,} classes. Weights: "
        f"`{content['weights']}`. Maps: {said}; the rest is the model's own.",
        "",
        "Figures are in percent unless they are counts.",
        "",
    ]
    for protocol in content["protocols"]:
        lines += [f"## {protocol['title']}", "", *_table(protocol["methods"]), ""]
        lines += [f"- {convention}" for convention in protocol["conventions"]]
        lines.append("")
        lines += _counts(protocol["methods"])
    return "\n".join(lines)


def _text(value: object) -> str:
    return ", ".join(f"`{each}`" for each in value) if isinstance(value, list) else str(value)


def _table(methods: list[dict[str, Any]]) -> list[str]:
    """Make a table with a row for each figure; published ones stand beside ours."""
    header, columns = ["Figure"], []
    for method in methods:
        by_name = {each["name"]: each for each in method["figures"]}
        header.append(method["method"])
        columns.append({name: each["shown"] for name, each in by_name.items()})
        published = {
            name: f"{each['published']:.2f}"
            for name, each in by_name.items()
            if each["published"] is not None
        }
        if published:
            source = next(each["source"] for each in by_name.values() if each["source"])
            header.append(f"{method['method']}, {source}")
            columns.append(published)
    figures: dict[str, str] = {}
    for method in methods:
        for each in method["figures"]:
            arrow = {"higher": " ↑", "lower": " ↓", None: ""}[each["better"]]
            figures.setdefault(each["name"], each["name"] + arrow)
    rows = [
        [shown, *(column.get(name, "") for column in columns)] for name, shown in figures.items()
    ]
    rule = ["---", *("---:" for _ in columns)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def _counts(methods: list[dict[str, Any]]) -> list[str]:
    lines = []
    for method in methods:
        failed = method["failed"]
        counts = [f"{method['measured']:,} measured"]
        counts += [f"{method['empty']:,} without a class"] if method["empty"] else []
        counts += [f"{len(failed):,} failed"] if failed else []
        lines.append(f"{method['method']}: {', '.join(counts)}.")
        lines += [f"- {key}: {reason}" for key, reason in list(failed.items())[:_MOST_FAILURES]]
        if len(failed) > _MOST_FAILURES:
            lines.append(f"- and {len(failed) - _MOST_FAILURES:,} more, see {JSON_NAME}")
        lines.append("")
    return lines
