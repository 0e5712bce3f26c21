"""The chart's balancer in front of real replicas, whose addresses come from a name server."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.support.charts import VALUE_SETS, container, only, rendered, variables
from tests.support.name_server import NameServer
from tests.support.pictures import request_of
from tests.support.running_balancer import Balancer, Load
from tests.support.running_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# All of them serve the same port, as pods do.
_HOSTS = ("127.0.0.6", "127.0.0.7", "127.0.0.8")


@pytest.fixture(scope="module")
def replicas(tiny_model: str) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        first = stack.enter_context(Server(tiny_model, host=_HOSTS[0]))
        others = [
            stack.enter_context(Server(tiny_model, host=host, port=first.port))
            for host in _HOSTS[1:]
        ]
        for each in (first, *others):
            each.wait_for_health()
        yield [first, *others]


def deployed(
    values: dict[str, Any], folder: Path, names: NameServer, port: int
) -> tuple[Path, dict[str, str]]:
    """The folder and the environment of the rendered balancer, with this name server and port."""
    objects = rendered(values)
    for name, text in only(objects, "ConfigMap")["data"].items():
        assert name == "tls.cfg" or "parse-resolv-conf" in text
        own = f"nameserver cluster 127.0.0.1:{names.port}"
        (folder / name).write_text(text.replace("parse-resolv-conf", own))
    environment = variables(container(objects, "legrad-balancer"))
    name, _, deployed_port = environment["REPLICAS"].partition(":")
    assert deployed_port == "8000"
    return folder, environment | {"REPLICAS": f"{name}:{port}"}


def test_replicas_come_and_go_with_the_addresses_of_their_name(
    replicas: list[Server], tmp_path: Path
) -> None:
    with NameServer(*_HOSTS[:2]) as names:
        folder, environment = deployed(
            {"balancer": {"enabled": True}}, tmp_path, names, replicas[0].port
        )
        with Balancer(folder=folder, variables=environment) as balancer:
            balancer.wait_for_replicas("UP", "UP")
            # Slots without an address are no failure, so that nobody is alarmed.
            assert balancer.replica(3)["status"].startswith("MAINT")
            with Load(balancer.url, [request_of(options={"cache": False})]) as load:
                names.addresses = list(_HOSTS)
                balancer.wait_for_replicas("UP", "UP", "UP")
                balancer.eventually(lambda: balancer.requests(3) > 5)
                names.addresses = list(_HOSTS[1:])
                balancer.eventually(lambda: balancer.replica(1)["status"].startswith("MAINT"))
                load.wait_for_answers(20)
            assert set(load.outcomes) == {"200"}, load.outcomes


def test_tls_ends_at_the_balancer_with_a_certificate_as_a_cluster_keeps_it(
    replicas: list[Server], tmp_path: Path
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    objects = rendered(VALUE_SETS["balancer"])
    pod = only(objects, "Deployment", "legrad-balancer")["spec"]["template"]["spec"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    content = {"tls.crt": issued.cert_chain_pems[0], "tls.key": issued.private_key_pem}
    assert secret["secretName"] == "legrad-tls"
    for item in secret["items"]:
        content[item["key"]].write_to_path(tmp_path / item["path"])
    certificate = Path(variables(container(objects, "legrad-balancer"))["BALANCER_TLS_CERTIFICATE"])
    with NameServer(*_HOSTS) as names:
        folder, environment = deployed(VALUE_SETS["balancer"], tmp_path, names, replicas[0].port)
        context = httpx.create_ssl_context()
        authority.configure_trust(context)
        with (
            Balancer(
                folder=folder,
                variables=environment,
                tls_certificate=tmp_path / certificate.name,
            ) as balancer,
            httpx.Client(base_url=balancer.tls_url, verify=context, timeout=60) as client,
        ):
            balancer.wait_for_replicas("UP", "UP", "UP")
            assert client.post("/explain", json=request_of()).status_code == 200
            assert client.get("/metrics").json()["error"] == "replica-only"
