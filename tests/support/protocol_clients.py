"""KServe's and Triton's own clients, in an environment of their own because of their pins."""

from pathlib import Path

from tests.support.environments import python_with


def client_python() -> Path:
    """Return the interpreter of that environment."""
    return python_with("protocols", ("kserve==0.21.0", "tritonclient[http]==2.73.0"))
