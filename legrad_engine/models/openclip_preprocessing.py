"""Preprocessing of open_clip's models: of a pretrained tag, a config, or an architecture."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from legrad_engine.models.preprocessing import Preprocessing


def of_tag(architecture: str, tag: str) -> Preprocessing:
    """Return the preprocessing that the weights of a pretrained tag were published with."""
    return _read(
        open_clip.get_pretrained_cfg(architecture, tag),
        source=f"open_clip's pretrained tag {architecture}/{tag}",
    )


def of_config(settings: Mapping[str, Any]) -> Preprocessing:
    """Read a config's ``preprocess_cfg``; values that it lacks are open_clip's defaults.

    Raises:
        ModelLoadError: a value is of another type or outside its range.
    """
    if settings.get("mean") is not None and settings.get("std") is not None:
        return _read(settings, source="the model's config")
    return _read(
        settings,
        source="open_clip's default: the model's config has no preprocess_cfg with mean and std",
        is_guess=True,
    )


def of_architecture(name: str) -> Preprocessing:
    """Infer the preprocessing of weights from the pretrained tags of their architecture.

    It is certain where all tags agree on every value that the model's input depends on. Where they
    differ, it is that of most tags; without tags, open_clip's default.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        return _read(
            {}, source=f"open_clip's default: {name} has no pretrained weights", is_guess=True
        )
    published = [of_tag(name, tag) for tag in tags]
    # The fit of a request decides how a picture is fitted, whatever the tags' resize modes are.
    inputs = Counter(replace(each, resize_mode=None, source="") for each in published)
    commonest = inputs.most_common(1)[0][0]
    modes = {each.resize_mode for each in published}
    is_agreed = len(inputs) == 1
    return replace(
        commonest,
        resize_mode=modes.pop() if len(modes) == 1 else None,
        source=f"{'all' if is_agreed else 'most'} of open_clip's pretrained tags for {name}",
        is_guess=not is_agreed,
    )


def _read(settings: Mapping[str, Any], *, source: str, is_guess: bool = False) -> Preprocessing:
    merged = merge_preprocess_dict(PreprocessCfg(), dict(settings))
    # open_clip's default of 0 is black for every resize mode, although only `longest` pads.
    merged["fill_color"] = settings.get("fill_color")
    return Preprocessing.of(merged, source=source, is_guess=is_guess)
