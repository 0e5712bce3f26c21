"""Memory of the machine while models are loaded and unloaded."""

from pathlib import Path

import pytest

from tests.support.pictures import request_of
from tests.support.running_server import Server
from tests.support.tiny_model import FULL_SIZE, save_model

pytestmark = pytest.mark.slow

KEY = "key"
LARGE = "large-large"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_machine_gets_the_memory_of_an_unloaded_model_back(tmp_path: Path) -> None:
    config = FULL_SIZE | {
        "vision_cfg": FULL_SIZE["vision_cfg"] | {"layers": 6},
        "text_cfg": FULL_SIZE["text_cfg"] | {"width": 64},
    }
    model = save_model(tmp_path, "large", config)
    with Server(model, load_models="on-demand", key=KEY) as server:
        left = []
        for _ in range(3):
            loaded = server.client.post(f"/models/{LARGE}/load?wait_seconds=60")
            assert loaded.status_code == 200
            assert server.explain(request_of()).status_code == 200
            gone = server.client.delete(f"/models/{LARGE}?wait_seconds=60")
            assert gone.json()["state"] == "unloaded"
            left.append(server.resident_bytes)
        # The heap varies by a few pages, but never by another model.
        assert left[-1] - left[0] < loaded.json()["bytes"] * 3 / 4
