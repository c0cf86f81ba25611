"""Image tiling (paper section 2): square crops that divide the image into instances of the object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsad.config import TilingConfig
from zsad.resize import Padded


@dataclass(frozen=True)
class Tile:
    """A square window of the image: x0, y0, x1, y1 in pixels, end exclusive; may reach outside (padding).

    ``component`` is the index, from 0, of the foreground component it belongs to.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    component: int


@dataclass(frozen=True)
class Tiling:
    """The tiles of one image in a fixed order, and the components whose step ``max_tiles`` widened."""

    tiles: tuple[Tile, ...]
    widened: tuple[int, ...]


def tile_image(
    boxes: NDArray[np.int32],
    parts: NDArray[np.int32],
    height: int,
    width: int,
    min_side: int,
    config: TilingConfig,
) -> Tiling:
    """Tiles of an image from its foreground components.

    One square per component, centred on its bounding box, with at least ``min_side`` native pixels.
    Paper: components of higher aspect (> 1.5) with many constituent parts (> 20) are tiled along
    their long axis in steps of half the short side instead.

    Every pixel of a component's box lies in at least one tile; every tile meets the image.

    Args:
        boxes: (C, 4) int32, x0, y0, x1, y1, end exclusive.
        parts: (C,) int32, constituent parts per component.
        height: image height.
        width: image width.
        min_side: smallest tile side in pixels (the input size of the pixel-level model).
    """
    tiles: list[Tile] = []
    widened: list[int] = []
    for component, ((x0, y0, x1, y1), part_count) in enumerate(zip(boxes.tolist(), parts.tolist(), strict=True)):
        long, short = max(x1 - x0, y1 - y0), min(x1 - x0, y1 - y0)
        if long > config.elongated_aspect * short and part_count > config.elongated_parts:
            strip, was_widened = _along(x0, y0, x1, y1, min_side, config)
            widened += [component] * was_widened
        else:
            side = max(long, min_side)
            strip = [(_inside(x0, x1, side, width), _inside(y0, y1, side, height), side)]
        tiles += [Tile(left, top, left + side, top + side, component) for left, top, side in strip]
    return Tiling(tuple(tiles), tuple(widened))


def crop(image: NDArray[np.uint8], tile: Tile) -> NDArray[np.uint8] | Padded:
    """The pixels of ``tile``, without a copy; outside the image its edge is repeated.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (h, w, 3) uint8, square: a view, or what of it lies in the image and the padding to be added.
    """
    height, width = image.shape[:2]
    inside = image[max(tile.y0, 0) : tile.y1, max(tile.x0, 0) : tile.x1]
    top, left = max(-tile.y0, 0), max(-tile.x0, 0)
    bottom, right = max(tile.y1 - height, 0), max(tile.x1 - width, 0)
    return Padded(inside, top, bottom, left, right) if top or bottom or left or right else inside


def _inside(start: int, stop: int, side: int, size: int) -> int:
    """Start of a window of ``side`` centred on start..stop, shifted into 0..size; centred if it cannot fit."""
    if side > size:
        return -((side - size) // 2)
    return min(max((start + stop - side) // 2, 0), size - side)


def _along(
    x0: int, y0: int, x1: int, y1: int, min_side: int, config: TilingConfig
) -> tuple[list[tuple[int, int, int]], bool]:
    """(left, top, side) of the tiles along the long axis of a box, and whether the step was widened.

    With steps of up to half a tile, every point of the long axis lies in the central half of at least one tile
    (unless the step was widened). The tiles pad at the image border instead of shifting, or the ends would never be central.
    """
    horizontal = x1 - x0 >= y1 - y0
    begin, end = (x0, x1) if horizontal else (y0, y1)
    across = (y0 + y1) if horizontal else (x0 + x1)
    short = min(x1 - x0, y1 - y0)
    side, limit = max(short, min_side), config.max_tiles
    starts = _starts(begin, end, side, max(1, int(short * config.elongated_step)))
    widened = len(starts) > limit
    if widened:
        first, last = _ends(begin, end, side)
        # The tiles grow when even the widest spacing would leave gaps between them.
        while last - first > side * (limit - 1):
            side += 1
            first, last = _ends(begin, end, side)
        gaps = max(limit - 1, 1)
        starts = [first + round(i * (last - first) / gaps) for i in range(limit)]
    top = (across - side) // 2
    return [(start, top, side) if horizontal else (top, start, side) for start in starts], widened


def _starts(begin: int, end: int, side: int, step: int) -> list[int]:
    first, last = _ends(begin, end, side)
    if last <= first:
        return [(first + last) // 2]
    return [*range(first, last, step), last]


def _ends(begin: int, end: int, side: int) -> tuple[int, int]:
    """First and last start such that the ends of begin..end lie in the central half of their tiles."""
    return begin - min(-(-side // 4), side // 2), end - max(3 * side // 4, -(-side // 2))
