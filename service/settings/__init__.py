"""Settings: the environment in, small frozen values out.

Importing this package loads nothing: the command line needs single modules of it at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings.environment import Settings, unknown_variables

__all__ = ["Settings", "unknown_variables"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("service.settings.environment"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
