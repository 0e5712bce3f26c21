"""Files rendered from the chart, and the chart's copies of other files, are up to date."""

import tomllib
from pathlib import Path

import helm_python as helm
import yaml

from tests.support.paths import DOCKER, ROOT
from tools.manifests import CHART, files


def test_every_generated_file_is_up_to_date() -> None:
    outdated = [path.name for path, text in files().items() if path.read_text() != text]
    assert outdated == [], "run `make manifests`"


def test_the_chart_has_no_file_that_nobody_generates() -> None:
    generated = {path for path in files() if path.parent == CHART / "files"}
    assert set((CHART / "files").iterdir()) == generated
    assert not [path for path in CHART.rglob("*") if path.is_symlink()]


def test_the_base_is_the_rendering_and_a_namespace() -> None:
    rendered = {path.name for path in files() if path.parent == DOCKER / "kubernetes"}
    applied = yaml.safe_load((DOCKER / "kubernetes" / "kustomization.yaml").read_text())
    assert set(applied["resources"]) == rendered | {"namespace.yaml"}


def test_the_packaged_chart_renders_as_its_folder_does(tmp_path: Path) -> None:
    with helm.Chart.load(CHART) as chart:
        archive = chart.save(str(tmp_path))
        expected = chart.render(name="legrad", namespace="legrad")
    with helm.Chart.load(archive) as packaged:
        assert packaged.render(name="legrad", namespace="legrad") == expected


def test_the_chart_is_of_the_version_of_the_service() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with helm.Chart.load(CHART) as chart:
        assert chart.metadata["appVersion"] == chart.version == project["version"]
