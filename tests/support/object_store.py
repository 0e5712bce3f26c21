"""An object store on the loopback interface, which `s3://` names while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import httpx
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """Run the store, and yield the environment variables by which its clients find it.

    This process has them as long as the context lasts.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    # Buckets belong to the process, not to a server in it: an earlier store's may be there.
    httpx.post(f"{address}/moto-api/reset").raise_for_status()
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    # Instances keep the address of the store that they were made for.
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            yield variables
    finally:
        clients.clear_instance_cache()
        server.stop()
