"""Preprocessing of timm's models: of a pretrained tag, a config, or an architecture."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import timm.models
from timm.models import PretrainedCfg
from torch import nn

from legrad_engine.models.preprocessing import Preprocessing

# By timm's name of the same mode.
_RESIZE_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}


def of_tag(architecture: str, record: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that the weights of a pretrained tag were published with.

    Args:
        architecture: timm's name without the tag.
        record: the tag's ``pretrained_cfg``.
    """
    return _read(record, source=f"timm's pretrained tag {architecture}.{record.get('tag', '')}")


def of_config(config: Mapping[str, Any], record: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing of a config that timm saved for the hub, else its architecture's.

    Args:
        config: the config file's content.
        record: the ``pretrained_cfg`` that timm made of it.

    Raises:
        ModelLoadError: a value is of another type or outside its range.
    """
    # Older files have all settings in one object.
    stated = config.get("pretrained_cfg", config)
    if stated.get("mean") is not None and stated.get("std") is not None:
        return _read(record, source="the model's config")
    # timm would take ImageNet's numbers for any architecture.
    found = of_architecture(config["architecture"])
    return replace(found, source=f"{found.source}, for want of mean and std in the model's config")


def of_architecture(name: str) -> Preprocessing:
    """Infer the preprocessing of weights from the pretrained tags of their architecture.

    It is certain where all tags agree on every value that the model's input depends on. Otherwise
    it is that of timm's default tag.
    """
    own = _read(timm.models.get_pretrained_cfg(name).to_dict(), source="")
    records = timm.models.get_arch_pretrained_cfgs(name).values()
    published = [_read(each.to_dict(), source="") for each in records if each.has_weights]
    if not published:
        source = f"timm's default: {name} has no pretrained weights"
        return replace(own, source=source, is_guess=True)
    # The fit of a request decides how a picture is fitted, whatever the tags' resize modes are.
    if len({replace(each, resize_mode=None) for each in published}) == 1:
        mode = own.resize_mode if len(set(published)) == 1 else None
        source = f"all of timm's pretrained tags for {name}"
        return replace(published[0], resize_mode=mode, source=source)
    source = f"timm's default tag for {name}, from which other tags differ"
    return replace(own, source=source, is_guess=True)


def attached(model: nn.Module) -> Preprocessing:
    """Return the preprocessing of the record that timm attached to a model."""
    record: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    return _read(record, source="timm's record of the model")


def _read(record: Mapping[str, Any], *, source: str, is_guess: bool = False) -> Preprocessing:
    given = {name: value for name, value in record.items() if value is not None}
    settings = {**asdict(PretrainedCfg()), **given}
    mode = _RESIZE_MODES.get(settings["crop_mode"])
    found = Preprocessing.of({**settings, "resize_mode": mode}, source=source, is_guess=is_guess)
    # timm pads with the mean colour.
    return replace(found, fill_color=None)
