"""Sizes, positions and boxes in answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """A patch grid."""

    rows: int
    columns: int


@dataclass(frozen=True)
class Point:
    """A position in the original picture, in pixels from its upper left corner."""

    x: int
    y: int


@dataclass(frozen=True)
class Box:
    """A box in the original picture, in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int
