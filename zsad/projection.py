"""Tile maps -> anomaly map, in NumPy and in a fixed order of operations.

What is stored of an image are its float16 tile maps; the anomaly map is defined as the float16
rounding of their projection. Every operation here is an elementwise IEEE float32 operation, so the
map has the same bits on every machine (a library's resize or a matrix product would not promise
that). It stands on the lowest floor because scoring, storage and evaluation all need the same bits.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float16, np.float32)

FloatArray = NDArray[np.floating]

PROJECTION = "bilinear/1"
"""Identity of the arithmetic below; part of the fingerprint."""


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

    # Rounded before it is turned, when it has half the bytes.
    return _upright(to_float16(_accumulate(tile_maps, boxes, height, width)), foreground)


def aggregate(
    tile_maps: FloatArray,
    boxes: NDArray[np.integer],
    height: int,
    width: int,
    foreground: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """``project`` before its rounding to float16: (H, W) float32."""
    return _upright(_accumulate(tile_maps, boxes, height, width), foreground)


def resize(array: FloatArray, height: int, width: int) -> NDArray[np.float32]:
    """Bilinear resize with half-pixel centres and no antialiasing (as ``align_corners=False``).

    Args:
        array: (H, W) float.
        height: output height.
        width: output width.

    Returns:
        (height, width) float32.
    """
    return np.ascontiguousarray(_resize_window(array, height, width, 0, height, 0, width).T)


def _accumulate(tile_maps: FloatArray, boxes: NDArray[np.integer], height: int, width: int) -> NDArray[np.float32]:
    """The mean over the tiles, columns first: (W, H), as the windows come."""
    total, count = np.zeros((width, height), np.float32), np.zeros((width, height), np.float32)
    for tile_map, (x0, y0, x1, y1) in zip(tile_maps, np.asarray(boxes).reshape(-1, 4).tolist(), strict=True):
        rows = slice(max(y0, 0), min(y1, height))
        columns = slice(max(x0, 0), min(x1, width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        total[columns, rows] += _resize_window(
            tile_map, y1 - y0, x1 - x0, rows.start - y0, rows.stop - y0, columns.start - x0, columns.stop - x0
        )
        count[columns, rows] += 1
    if count.max(initial=0) > 1:
        # Dividing by 1 changes no bit, and is faster than asking where.
        np.maximum(count, 1, out=count)
        total /= count
    return total


def _upright(values: NDArray[_Float], foreground: NDArray[np.bool_] | None) -> NDArray[_Float]:
    """(W, H) -> (H, W), 0 outside the foreground."""
    turned = np.ascontiguousarray(values.T)
    if foreground is not None:
        turned[~foreground] = 0
    return turned


def _resize_window(
    array: FloatArray, height: int, width: int, top: int, bottom: int, left: int, right: int
) -> NDArray[np.float32]:
    """The window rows top:bottom, columns left:right of ``array`` resized to (height, width), columns first.

    Whole rows are fetched in both passes, which is why the array is turned between them. The order of the
    operations on each value (along the rows' axis, then along the columns') is part of ``PROJECTION``.
    """
    across = _blend(array.astype(np.float32, copy=False), *_taps(array.shape[0], height, top, bottom))
    return _blend(np.ascontiguousarray(across.T), *_taps(array.shape[1], width, left, right))


def _blend(
    source: NDArray[np.float32], low: NDArray[np.intp], high: NDArray[np.intp], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(N, M) -> (K, M): row i = source[low[i]] * (1 - weight[i]) + source[high[i]] * weight[i]."""
    rows, other = source[low], source[high]
    rows *= (1 - weight)[:, None]
    other *= weight[:, None]
    rows += other
    return rows


def _taps(
    size_in: int, size_out: int, start: int, stop: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    centre = np.clip((np.arange(start, stop) + 0.5) * (size_in / size_out) - 0.5, 0, size_in - 1)
    low = np.floor(centre).astype(np.intp)
    return low, np.minimum(low + 1, size_in - 1), (centre - low).astype(np.float32)
