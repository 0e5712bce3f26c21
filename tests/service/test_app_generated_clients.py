"""Generators of clients understand the contract, and their clients every answer."""

import compileall
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.generated_clients import (
    NODE_MODULES,
    generate_python,
    generate_python_by_openapi_generator,
    generate_typescript,
    generator_python,
)
from tests.support.paths import CONTRACT
from tests.support.pictures import encoded
from tests.support.running_app import RunningApp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "a key"
FOLDER = Path(__file__).parent / "generated"
PROBLEMS = ("ProblemDetails", "ProtocolError", "TorchServeError")


def operations() -> dict[str, str]:
    """Return the id of each operation by its method and path."""
    paths: dict[str, dict[str, Any]] = yaml.safe_load(CONTRACT.read_text())["paths"]
    return {
        f"{method.upper()} {path}": operation["operationId"]
        for path, methods in paths.items()
        for method, operation in methods.items()
    }


@pytest.fixture(scope="module")
def server(tiny_model: str) -> Iterator[RunningApp]:
    with RunningApp(tiny_model, key=KEY) as started:
        yield started


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    path.write_bytes(encoded())
    return path


def run(*command: object) -> str:
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_operation_has_a_name_of_its_own() -> None:
    names = list(operations().values())
    assert len(set(names)) == len(names) > 20


def test_openapi_python_client_calls_every_operation(
    server: RunningApp, picture: Path, tmp_path: Path
) -> None:
    generate_python(tmp_path)
    address = f"http://{server.host}:{server.port}"
    script = FOLDER / "call_python.py"
    model = server.model.id
    printed = run(generator_python(), script, tmp_path, address, KEY, model, picture)
    answers: dict[str, list[list[Any]]] = json.loads(printed)
    assert answers.keys() == set(operations().values())
    refused = answers["explain"].pop()
    assert refused == [422, "ProblemDetails"]
    for name, calls in answers.items():
        for status, kind in calls:
            assert (status, kind in PROBLEMS, kind == "NoneType") == (200, False, False), name


def test_openapi_typescript_calls_every_operation(
    server: RunningApp, picture: Path, tmp_path: Path
) -> None:
    generate_typescript(tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "tsconfig.json").write_text((FOLDER / "tsconfig.json").read_text())
    (tmp_path / "call_typescript.ts").write_text((FOLDER / "call_typescript.ts").read_text())
    run(NODE_MODULES / ".bin" / "tsc", "--project", tmp_path)
    address = f"http://{server.host}:{server.port}"
    printed = run("node", tmp_path / "call_typescript.js", address, KEY, server.model.id, picture)
    answers: list[tuple[str, int]] = json.loads(printed)
    assert {called for called, _ in answers} == operations().keys()
    assert {status for _, status in answers} == {200}


def test_openapi_generator_makes_a_client_of_every_operation_that_compiles(tmp_path: Path) -> None:
    log = generate_python_by_openapi_generator(tmp_path)
    assert "ERROR" not in log
    package = tmp_path / "generated_client"
    assert compileall.compile_dir(package, quiet=1)
    written = "".join(path.read_text() for path in (package / "api").glob("*_api.py"))
    missing = [name for name in operations().values() if f"def {name}(" not in written]
    assert missing == []
