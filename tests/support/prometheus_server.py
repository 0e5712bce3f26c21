"""A real Prometheus that scrapes real servers with the configuration of this repository."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.monitoring_program import MonitoringProgram
from tests.support.paths import DOCKER

PROMETHEUS_FILES = DOCKER / "prometheus"


class Prometheus(MonitoringProgram):
    """A Prometheus process, as a context manager.

    The configuration is that of ``docker/prometheus``, with other addresses and with shorter
    intervals, so that a test does not wait for minutes.
    """

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str],
        *,
        balancers: Sequence[str] = (),
        alertmanagers: Sequence[str] = (),
        relabelings: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Start it.

        Args:
            folder: place of its data and configuration.
            targets: address and port of each replica.
            balancers: the same of the statistics of each balancer.
            alertmanagers: the same of each Alertmanager.
            relabelings: changes to the labels of the replicas' series.
        """
        config = yaml.safe_load((PROMETHEUS_FILES / "prometheus.yml").read_text())
        replicas, balancer = config["scrape_configs"]
        assert [job["job_name"] for job in (replicas, balancer)] == ["legrad", "legrad-balancer"]
        replicas["static_configs"] = [{"targets": list(targets)}]
        replicas["relabel_configs"] = list(relabelings)
        balancer["static_configs"] = [{"targets": list(balancers)}]
        (alerting,) = config["alerting"]["alertmanagers"]
        alerting["static_configs"] = [{"targets": list(alertmanagers)}]
        config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        for name in config["rule_files"]:
            shutil.copy(PROMETHEUS_FILES / name, folder)

        def command(address: str) -> list[str]:
            return [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ]

        super().__init__(folder / "prometheus.log", command)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; fail if Prometheus refuses it."""
        answer = self.client.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its health, as last evaluated."""
        groups = self.client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]
