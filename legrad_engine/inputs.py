"""Collation of prepared pictures into a batch of normalised model inputs."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.models.preprocessing import PerChannel, Preprocessing
from legrad_engine.transfers import to_device


def by_input_size(images: Sequence[PreparedImage]) -> list[list[int]]:
    """Group the indices of pictures by input size."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[image.geometry.input_size].append(index)
    return list(groups.values())


def check_preparation(images: Sequence[object], **options: object) -> None:
    """Check that options of the preparation are given for pictures alone that it still changes.

    Args:
        images: pictures, prepared or not.
        options: options by name; None for those that are not given.

    Raises:
        InvalidOptionError: an option is given, and a picture is prepared already.
    """
    for option, value in options.items():
        if value is not None and any(isinstance(each, PreparedImage) for each in images):
            raise InvalidOptionError(
                f"{option}={value!r} has no effect on a prepared picture: give it to prepare().",
                field=option,
            )


def collate(images: Sequence[PreparedImage], preprocessing: Preprocessing) -> Tensor:
    """Copy pictures of one input size into one tensor, each in its content box.

    Args:
        images: at least one, all with 8-bit pixels or all already normalised.
        preprocessing: its fill colour becomes the padding.

    Returns:
        uint8 ``[B, height, width, 3]``, or a float ``[B, 3, height, width]`` of the pictures that
        are already normalised.
    """
    if images[0].pixels.dtype != np.uint8:
        return torch.stack([torch.from_numpy(image.pixels) for image in images])
    width, height = images[0].geometry.input_size
    batch = np.empty((len(images), height, width, 3), np.uint8)
    for place, image in zip(batch, images, strict=True):
        left, top, right, bottom = image.geometry.content_box
        if (right - left, bottom - top) != (width, height):
            place[:] = preprocessing.fill_color or 0
        place[top:bottom, left:right] = image.pixels
    return torch.from_numpy(batch)


def normalize(
    batch: Tensor, images: Sequence[PreparedImage], preprocessing: Preprocessing
) -> Tensor:
    """Normalise a batch on its device.

    The values of the pictures equal torchvision's ``ToTensor`` and ``Normalize``, in float32 on the
    CPU bit for bit. Padding has the fill colour of the preprocessing; without one its neutral
    colour.

    Args:
        batch: from :func:`collate`, on any device.
        images: the pictures in it.
        preprocessing: the model's own.

    Returns:
        float32 ``[B, 3, height, width]``; a float batch as it is.
    """
    if batch.dtype != torch.uint8:
        return batch
    pixels = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    pixels.div_(255).sub_(_channels(preprocessing.mean, batch.device))
    pixels.div_(_channels(preprocessing.std, batch.device))
    if preprocessing.fill_color is None:
        _fill_padding(pixels, images, preprocessing.neutral)
    return pixels


def _fill_padding(pixels: Tensor, images: Sequence[PreparedImage], colour: PerChannel) -> None:
    whole = 0, 0, pixels.shape[3], pixels.shape[2]
    boxes = [image.geometry.content_box for image in images]
    padded = [index for index, box in enumerate(boxes) if box != whole]
    if not padded:
        return
    values = _channels(colour, pixels.device)
    for index in padded:
        left, top, right, bottom = boxes[index]
        place = pixels[index]
        place[:, :top] = place[:, bottom:] = values
        place[:, :, :left] = place[:, :, right:] = values


def _channels(values: PerChannel, device: torch.device) -> Tensor:
    return to_device(torch.tensor(values, dtype=torch.float32), device).view(3, 1, 1)
