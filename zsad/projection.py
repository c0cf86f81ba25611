"""Tile maps -> anomaly map, in a fixed order of operations.

What is stored of an image are its float16 tile maps; the anomaly map is defined as the float16
rounding of their projection. Every operation here is an elementwise IEEE float32 operation, so the
map has the same bits on every machine (a library's resize or a matrix product would not promise
that). It stands on the lowest floor because scoring, storage and evaluation all need the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

PROJECTION = "bilinear/1"
"""Identity of the arithmetic below; part of the fingerprint."""
_ROWS = 64
"""Made and rounded together, while they are in the caches."""


def project(
    tile_maps: FloatArray,
    boxes: NDArray[np.integer],
    height: int,
    width: int,
    foreground: NDArray[np.bool_] | None = None,
) -> NDArray[np.float16]:
    """Rearrange tile maps into the image; mean where tiles overlap, 0 outside every tile.

    Paper, "Prediction aggregation": tiles are rearranged into the original image space, with pixels
    belonging to multiple tiles averaged across the predictions.

    Args:
        tile_maps: (T, S, S) float16 or float32.
        boxes: (T, 4) int, x0, y0, x1, y1 in image pixels, end exclusive; may reach outside the image
            (padding), that part is discarded.
        height: image height H.
        width: image width W.
        foreground: (H, W) bool; when given, pixels outside it are 0.

    Returns:
        (H, W) float16.
    """
    # Not at the top: importing the compiler takes longer than all else that a reader of results imports.
    from zsad.kernels import to_float16

    output = np.empty((height, width), np.float16)
    for top, rows in _mean(tile_maps, boxes, height, width, _ROWS):
        output[top : top + _ROWS] = to_float16(rows)
    if foreground is not None:
        output[~foreground] = 0
    return output


def aggregate(tile_maps: FloatArray, boxes: NDArray[np.integer], height: int, width: int) -> NDArray[np.float32]:
    """``project`` without a foreground, before its rounding to float16: (H, W) float32."""
    ((_, output),) = _mean(tile_maps, boxes, height, width, height)
    return output


def resize(array: FloatArray, height: int, width: int) -> NDArray[np.float32]:
    """Bilinear resize with half-pixel centres and no antialiasing (as ``align_corners=False``).

    Args:
        array: (H, W) float.
        height: output height.
        width: output width.

    Returns:
        (height, width) float32.
    """
    return aggregate(array[None], np.array([[0, 0, width, height]]), height, width)


def _mean(
    tile_maps: FloatArray, boxes: NDArray[np.integer], height: int, width: int, rows: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The mean over the tiles, some rows at a time: the first one's index and (R, W) float32, good until the next."""
    from zsad.kernels import mean_of_tiles

    if len(tile_maps) and 0 in tile_maps.shape[1:]:
        raise ValueError(f"tile maps of shape {tile_maps.shape} have no pixels")
    windows, along_y, along_x = np.empty((len(tile_maps), 4), np.int64), [_taps(1, 1, 0, 0)], [_taps(1, 1, 0, 0)]
    for window, tile_map, (x0, y0, x1, y1) in zip(
        windows, tile_maps, np.asarray(boxes).reshape(-1, 4).tolist(), strict=True
    ):
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if left >= right or top >= bottom:
            window[:] = 0
            continue
        window[:] = left, top, right, bottom
        along_y.append(_taps(tile_map.shape[0], y1 - y0, top - y0, bottom - y0))
        along_x.append(_taps(tile_map.shape[1], x1 - x0, left - x0, right - x0))
    maps = np.ascontiguousarray(tile_maps, np.float32)
    taps = [np.concatenate(parts) for axis in (along_y, along_x) for parts in zip(*axis, strict=True)]
    scratch = np.empty(maps.shape[2], np.float32), np.empty(width, np.float32)
    output = np.empty((min(rows, height), width), np.float32)
    for first in range(0, height, rows):
        some = output[: height - first]
        mean_of_tiles(maps, windows, *taps, first, *scratch, some)
        yield first, some


def _taps(
    size_in: int, size_out: int, start: int, stop: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
    """The two neighbours of the outputs from ``start`` to ``stop``, and the weight of the second."""
    centre = np.clip((np.arange(start, stop) + 0.5) * (size_in / size_out) - 0.5, 0, size_in - 1)
    low = np.floor(centre)
    high = np.minimum(low + 1, size_in - 1)
    return low.astype(np.uint32), high.astype(np.uint32), (centre - low).astype(np.float32)
