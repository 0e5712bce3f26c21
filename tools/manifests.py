"""Generator of what follows from the Helm chart, and of what the chart takes from elsewhere.

Usage: ``python -m tools.manifests``. It writes

- ``docker/helm/legrad/files``: the alerts, the dashboard and the configurations of the balancer and
  of Alertmanager, because a chart cannot read files outside of its folder;
- the settings in ``docker/helm/legrad/values.schema.json``, from those of the service;
- ``docker/kubernetes``: the chart, rendered for Kustomize.
"""

import json
import re
from pathlib import Path
from typing import Any

import helm_python as helm

from service.settings import Settings

_DOCKER = Path(__file__).parents[1] / "docker"
CHART = _DOCKER / "helm" / "legrad"
_SCHEMA = CHART / "values.schema.json"
_KUBERNETES = _DOCKER / "kubernetes"

_COPIED = (
    "alertmanager/alertmanager.yml",
    "grafana/dashboards/legrad.json",
    "haproxy/haproxy.cfg",
    "haproxy/tls.cfg",
    "prometheus/alerts.yml",
)
# Kustomize gives the image its name.
_VALUES = {"image": {"repository": "legrad"}}
_HEADER = "# Rendered by `make manifests` from docker/helm/legrad: change the chart.\n"
# Helm manages nothing here.
_LABELS_OF_HELM = re.compile(r"^ +(?:helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.M)
# The chart sets these from other values, or mounts them.
_OWN_SETTINGS = {
    "admin_host",
    "admin_port",
    "api_keys",
    "api_keys_file",
    "compute_threads",
    "device",
    "drain_timeout_seconds",
    "host",
    "models",
    "picture_processes",
    "port",
    "request_timeout_seconds",
    "shutdown_delay_seconds",
    "trusted_proxies",
    "uds",
}


def files() -> dict[Path, str]:
    """Return the path and content of each file that is generated.

    The rendering sees the chart's files as they are on disk, so that a chart with outdated copies
    is outdated in all that contains them.
    """
    copies = {CHART / "files" / Path(name).name: (_DOCKER / name).read_text() for name in _COPIED}
    return copies | {_SCHEMA: _schema()} | _manifests()


def _schema() -> str:
    """Return the schema of the values, with the settings that the service has now."""
    schema = json.loads(_SCHEMA.read_text())
    schema["properties"]["settings"] = {
        "type": "object",
        "description": "Variables of docs/settings.md that no other value of the chart sets.",
        "additionalProperties": False,
        "properties": {
            f"LEGRAD_{name.upper()}": _setting(field.description)
            for name, field in Settings.model_fields.items()
            if name not in _OWN_SETTINGS
        },
    }
    return json.dumps(schema, indent=2) + "\n"


def _setting(description: str | None) -> dict[str, Any]:
    return {"type": ["string", "number", "boolean"], "description": description}


def _manifests() -> dict[Path, str]:
    """Return the manifests of the Kustomize base: one file for each template that is not empty."""
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(_VALUES, name="legrad", namespace="legrad")
    return {
        _KUBERNETES / Path(path).name: _HEADER + _LABELS_OF_HELM.sub("", text).strip() + "\n"
        for path, text in rendered.items()
        if path.endswith(".yaml") and text.strip()
    }


def main() -> None:
    """Write the files."""
    # Twice: the rendering contains copied files, and the schema decides over the values.
    for _ in range(2):
        for path, text in files().items():
            path.write_text(text)


if __name__ == "__main__":
    main()
