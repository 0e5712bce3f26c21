"""Discovery of modules that register themselves on import."""

import importlib
import pkgutil
from functools import cache


@cache
def import_modules(package: str) -> None:
    """Import every module of a package, so that each file registers itself.

    Args:
        package: full name of the package, which is imported too.
    """
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__):
        importlib.import_module(f"{package}.{module.name}")
