"""The Helm chart of this repository, rendered by Helm's own library."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from tests.support.paths import DOCKER

CHART = DOCKER / "helm" / "legrad"
# The sets of values that the documentation names, and none at all.
VALUE_SETS: dict[str, dict[str, Any]] = {"default": {}} | {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((DOCKER / "helm" / "values").glob("*.yaml"))
}


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, as a cluster does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"{sorted(map(str, keys))} at {node.start_mark}"
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the documents of a YAML text that are not empty."""
    return [each for each in yaml.load_all(text, _StrictLoader) if each]


def rendered_files(
    values: dict[str, Any], *, name: str = "legrad", namespace: str = "shop"
) -> dict[str, str]:
    """Return the text of each template's file, by its name without folders.

    Raises:
        helm.HelmValuesError: if the schema refuses the values.
        helm.HelmRenderError: if the templates refuse them.
    """
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=name, namespace=namespace)
    return {Path(path).name: text for path, text in rendered.items()}


def rendered(
    values: dict[str, Any], *, name: str = "legrad", namespace: str = "shop"
) -> list[dict[str, Any]]:
    """Return the objects that a release would have."""
    files = rendered_files(values, name=name, namespace=namespace)
    return [
        document
        for file, text in files.items()
        if file != "NOTES.txt"
        for document in documents(text)
    ]


def only(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the one object of a kind, and of a name if there are several."""
    (found,) = [
        each
        for each in objects
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]
    return found


def container(objects: list[dict[str, Any]], name: str | None = None) -> dict[str, Any]:
    """Return the one container of a Deployment."""
    (found,) = only(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Return the environment variables of a container that have a value."""
    names = [each["name"] for each in container["env"]]
    assert len(set(names)) == len(names), names
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}
