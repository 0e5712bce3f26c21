"""Registry of architecture families: which image towers are explained, which are refused and why.

A family is one file of this package that calls :func:`register`. The registry imports every module
of the package when it is first asked, so a new family is listed nowhere else. The loader, the
catalogue (``legrad models``) and the generated page docs/models.md all read this registry.

Importing this module loads no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from legrad_engine.discovery import import_modules
from legrad_engine.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch import nn

    from legrad_engine.families.base import Tower

_PACKAGE = "legrad_engine.families"
_TIMM_DEFAULT_INPUT = (3, 224, 224)


@dataclass(frozen=True, slots=True)
class ImageEncoder:
    """A model's image encoder, with the wrapper of its library taken off.

    Attributes:
        visual: the encoder as the model holds it (``model.visual``).
        trunk: the module with the blocks: the timm trunk inside open_clip's ``TimmModel``, else
            ``visual`` itself.
        adapter: the layers that open_clip puts behind a timm trunk; None for any other encoder.
    """

    visual: Any
    trunk: Any
    adapter: "nn.Module | None"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels that a timm trunk's weights were trained at."""
        if self.adapter is not None:
            height, width = self.visual.image_size
        else:
            _, height, width = self.trunk.pretrained_cfg.get("input_size", _TIMM_DEFAULT_INPUT)
        return height, width

    @property
    def timm_module(self) -> str:
        """Name of the file that defines the trunk's class, such as ``"eva"``."""
        return _last_part(type(self.trunk).__module__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """An architecture family that can be explained.

    Attributes:
        name: unique name, such as ``"timm-eva"``.
        classes: the classes of trunk that the family takes, with their subclasses. A subclass may
            belong to another family: the nearest class decides.
        build: makes the tower of an encoder whose trunk is of one of these classes.
        timm_modules: the files in ``timm.models`` whose architectures are built of these classes.
        plain_models: the family's plain timm models in words, for docs/models.md; empty if none.
    """

    name: str
    classes: tuple[type["nn.Module"], ...]
    build: Callable[[ImageEncoder], "Tower"]
    timm_modules: tuple[str, ...] = ()
    plain_models: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A kind of image tower that is known and cannot be explained.

    Attributes:
        name: unique name.
        reason: clause that completes "cannot be explained: ..."; ``{name}`` stands for the
            architecture.
        nearest: reference of the nearest model that is explained; empty if the reason names it.
        timm_modules: the files in ``timm.models`` whose architectures are refused.
        config: whether an open_clip ``vision_cfg`` describes such a tower.
        encoder: whether a built encoder is such a tower.
    """

    name: str
    reason: str
    nearest: str = ""
    timm_modules: tuple[str, ...] = ()
    config: Callable[[Mapping[str, Any]], bool] = lambda _: False
    encoder: Callable[[ImageEncoder], bool] = lambda _: False

    def clause(self, name: str) -> str:
        """Return the reason for an architecture, with the nearest model that is explained."""
        nearest = f"; the nearest that is explained is {self.nearest}" if self.nearest else ""
        return f"{self.reason.format(name=name)}{nearest}"

    def matches(self, encoder: ImageEncoder) -> bool:
        """Tell whether the refusal applies to a built encoder."""
        return encoder.timm_module in self.timm_modules or self.encoder(encoder)


_families: dict[str, Family] = {}
_refusals: dict[str, Refusal] = {}


def register(entry: Family | Refusal) -> None:
    """Add a family, or a kind of tower that is refused. Called by family files on import.

    Raises:
        ValueError: the name, or one of the family's classes, is taken.
    """
    if entry.name in _families or entry.name in _refusals:
        raise ValueError(f"the family {entry.name!r} is registered twice")
    if isinstance(entry, Refusal):
        _refusals[entry.name] = entry
        return
    taken = _family_by_class().keys() & set(entry.classes)
    if taken:
        raise ValueError(f"{entry.name!r} takes classes of another family: {taken}")
    _families[entry.name] = entry


def families() -> tuple[Family, ...]:
    """List the registered families, by name."""
    import_modules(_PACKAGE)
    return tuple(_families[name] for name in sorted(_families))


def refusals() -> tuple[Refusal, ...]:
    """List the registered refusals, by name."""
    import_modules(_PACKAGE)
    return tuple(_refusals[name] for name in sorted(_refusals))


def find_tower(model: "nn.Module") -> "Tower":
    """Build the tower that explains a model's image encoder, ``model.visual``.

    Raises:
        UnsupportedModelError: no family takes this architecture, with the reason.
    """
    import_modules(_PACKAGE)
    encoder = _encoder_of(model)
    name = type(encoder.trunk).__name__
    for refused in _refusals.values():
        if refused.matches(encoder):
            raise UnsupportedModelError(f"This model cannot be explained: {refused.clause(name)}.")
    by_class = _family_by_class()
    for each in type(encoder.trunk).__mro__:
        if each in by_class:
            return by_class[each].build(encoder)
    if encoder.adapter is not None or hasattr(encoder.trunk, "pretrained_cfg"):
        raise UnsupportedModelError(f"This model cannot be explained: {_unknown_name(name)}.")
    raise UnsupportedModelError(
        f"{name} is not an image tower that LeGrad can explain: it has no attention over a patch "
        "grid, or its architecture is not known here. `legrad models --all` lists what is "
        "supported."
    )


def refusal(config: Mapping[str, Any]) -> str | None:
    """Give the reason why the model of an open_clip config cannot be explained; None if it can."""
    import_modules(_PACKAGE)
    vision = config["vision_cfg"]
    reason = timm_refusal(vision["timm_model_name"]) if vision.get("timm_model_name") else None
    if reason is not None:
        return reason
    return next((each.clause("") for each in _refusals.values() if each.config(vision)), None)


def timm_refusal(name: str) -> str | None:
    """Give the reason why a timm architecture cannot be explained; None if it can, or is unknown.

    A name that timm does not know may be a repository on a hub; the loader judges it.
    """
    from timm.models import is_model, model_entrypoint

    if not isinstance(name, str) or not is_model(name):
        return None
    import_modules(_PACKAGE)
    module = _last_part(model_entrypoint(name).__module__)
    for refused in _refusals.values():
        if module in refused.timm_modules:
            return refused.clause(name)
    if any(module in family.timm_modules for family in _families.values()):
        return None
    return _unknown_name(name)


def _family_by_class() -> dict[type, Family]:
    return {each: family for family in _families.values() for each in family.classes}


def _encoder_of(model: "nn.Module") -> ImageEncoder:
    from open_clip.timm_model import TimmModel

    visual = getattr(model, "visual", None)
    if isinstance(visual, TimmModel):
        return ImageEncoder(visual, visual.trunk, visual.head)
    return ImageEncoder(visual, visual, None)


def _unknown_name(name: str) -> str:
    return f"its image tower is timm's {name}, an architecture that is not supported yet"


def _last_part(module: str) -> str:
    return module.rpartition(".")[2]
