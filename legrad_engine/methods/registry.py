"""Registry of explanation methods.

A method is one file of this package that calls :func:`register`. The registry imports every module
of the package when it is first asked, so a new method is listed nowhere else. The explainer, the
catalogue, the page and docs/methods.md all read this registry.

Importing this module loads no torch.
"""

from typing import TYPE_CHECKING, Any

from legrad_engine.discovery import import_modules
from legrad_engine.errors import InvalidOptionError
from legrad_engine.methods.names import DEFAULT_METHOD

if TYPE_CHECKING:
    from legrad_engine.families.base import Tower
    from legrad_engine.methods.base import Method

_PACKAGE = "legrad_engine.methods"

_methods: "dict[str, Method[Any]]" = {}


def register(method: "Method[Any]") -> None:
    """Add a method. Called by method files on import.

    Raises:
        ValueError: the name is taken.
    """
    if method.name in _methods:
        raise ValueError(f"the method {method.name!r} is registered twice")
    _methods[method.name] = method


def methods() -> "tuple[Method[Any], ...]":
    """List the registered methods: the default one first, then by name."""
    import_modules(_PACKAGE)
    return tuple(
        _methods[name] for name in sorted(_methods, key=lambda name: (name != DEFAULT_METHOD, name))
    )


def methods_of(tower: "Tower") -> "tuple[Method[Any], ...]":
    """List the methods that a tower can have, in the order of :func:`methods`."""
    return tuple(method for method in methods() if method.refusal(tower) is None)


def find_method(name: str, tower: "Tower") -> "Method[Any]":
    """Return a method by its name.

    Raises:
        InvalidOptionError: no such method, or the tower cannot have it, with the reason.
    """
    import_modules(_PACKAGE)
    method = _methods.get(name)
    reason = "is unknown" if method is None else method.refusal(tower)
    if method is not None and reason is None:
        return method
    if method is not None:
        reason = f"is not offered by this model: {reason}"
    offered = ", ".join(each.name for each in methods_of(tower))
    raise InvalidOptionError(
        f"method={name[:64]!r} {reason}. This model offers {offered}.", field="method"
    )
