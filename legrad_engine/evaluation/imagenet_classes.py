"""The 1,000 classes of ImageNet: synsets and names. Importing this module loads no torch."""

from collections.abc import Mapping
from functools import cache

IMAGENET_CLASSES = 1000


@cache
def imagenet_indices() -> Mapping[str, int]:
    """Return the index of each class by its synset, such as ``n01440764``."""
    # Imported on first use, because timm imports torch.
    from timm.data import ImageNetInfo

    return {synset: index for index, synset in enumerate(ImageNetInfo().label_names())}


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return the names that CLIP's authors gave to the classes, as open_clip has them."""
    # Imported on first use, because open_clip imports torch.
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)
