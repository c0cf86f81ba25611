"""The one place that scales photographs, with the values of Pillow and of torch, several times as fast.

``resize`` gives Pillow's bytes: the same 22-bit coefficients, the same two passes with bytes between them.
``stretch`` gives those of ``F.interpolate`` without antialiasing, truncated: the same float32 operations. Both
work along rows only, where a processor computes on many values at once; for the other axis the image is turned.
The loops are compiled when they are first called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

Filter = Literal["bilinear", "bicubic"]

_BITS = 22
"""Of a coefficient's fraction: 8 bits of pixel and 2 of overshoot fill up an int32."""
_BLOCK = 1 << 18
"""Bytes that are turned together; they stay in the second cache."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled to machine code, which is kept on disk for other processes where there is a place for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        kernel = numba.njit(**options)(function)

    def call(*arguments: Any) -> Any:
        nonlocal kernel
        try:
            return kernel(*arguments)
        except Exception:
            # What is kept is damaged, or nothing more can be kept; this one does without.
            kernel = numba.njit(**options)(function)
            return kernel(*arguments)

    return call


def resize(pixels: NDArray[np.uint8], height: int, width: int, kernel: Filter) -> NDArray[np.uint8]:
    """``PIL.Image.resize`` of an RGB image, byte for byte.

    Args:
        pixels: (h, w, 3) uint8; a window of a larger image need not be copied.
        height, width: of the result, at least 1.
        kernel: ``bilinear`` or ``bicubic``, widened when scaling down (antialiasing).

    Returns:
        (height, width, 3) uint8, contiguous.
    """
    if _rows_first(pixels.shape, height, width):
        return _columns(_rows(pixels, height, kernel), width, kernel)
    return _rows(_columns(pixels, width, kernel), height, kernel)


def resize_into(
    output: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    kernel: Filter,
    table: NDArray[np.float32],
    size: tuple[int, int] | None = None,
) -> None:
    """``resize``, and what becomes of each byte looked up in ``table``, channels first.

    Args:
        output: (3, H, W) float32, contiguous; its upper left corner is filled in.
        pixels, kernel: as in ``resize``.
        table: (3, 256) float32, per channel.
        size: height and width to scale to, at most (H, W); None = these.
    """
    height, width = size or output.shape[1:]
    _look_up(_flat(resize(pixels, height, width, kernel)), table, output)


def stretch(pixels: NDArray[np.uint8], height: int, width: int, divisor: float, offset: float) -> NDArray[np.float32]:
    """``F.interpolate(mode="bilinear")`` of float32 pixels, truncated to bytes; each divided, less an offset.

    Without antialiasing. Torch has two ways to add up the four neighbours and chooses by its number of threads;
    this is the one of a single thread, on processors with fused multiply-add, whatever the number.

    Args:
        pixels: (h, w, 3) uint8.
        height, width: of the result.
        divisor, offset: of byte b becomes ``b / divisor - offset``, rounded to float32 after each operation.

    Returns:
        (3, height, width) float32.
    """
    output = np.empty((3, height, width), np.float32)
    gathered, weights = np.empty((2, 2, width), np.uint32), np.empty((4, width), np.float32)
    rows, columns = _neighbours(pixels.shape[0], height), _neighbours(pixels.shape[1], width)
    _stretch(_flat(pixels), *rows, *columns, np.float32(divisor), np.float32(offset), gathered, weights, output)
    return output


def _rows_first(shape: tuple[int, ...], height: int, width: int) -> bool:
    """Whether Pillow 13 scales the height first: where that drops many more lines. Older ones never do."""
    return height < shape[0] and shape[0] - height > 2 * (shape[1] - width)


def _rows(pixels: NDArray[np.uint8], height: int, kernel: Filter) -> NDArray[np.uint8]:
    """(h, w, 3) -> (height, w, 3)."""
    if height == pixels.shape[0]:
        return np.ascontiguousarray(pixels)
    output = np.empty((height, *pixels.shape[1:]), np.uint8)
    sums = np.empty(3 * pixels.shape[1], np.int32)
    _combine(_flat(pixels), *_taps(pixels.shape[0], height, kernel), sums, _flat(output))
    return output


def _columns(pixels: NDArray[np.uint8], width: int, kernel: Filter) -> NDArray[np.uint8]:
    """(h, w, 3) -> (h, width, 3)."""
    if width == pixels.shape[1]:
        return pixels
    height = pixels.shape[0]
    taps = _taps(pixels.shape[1], width, kernel)
    output = np.empty((height, width, 3), np.uint8)
    rows = min(height, max(64, _BLOCK // (3 * pixels.shape[1]) // 64 * 64))
    # The same memory for every block: new memory has to be cleared by the system first, page by page.
    sums = np.empty(3 * rows, np.int32)
    turned_memory, scaled_memory = (np.empty(3 * rows * length, np.uint8) for length in (pixels.shape[1], width))
    for top in range(0, height, rows):
        block = pixels[top : top + rows]
        turned, scaled = (
            memory[: 3 * len(block) * length].reshape(length, len(block), 3)
            for memory, length in ((turned_memory, pixels.shape[1]), (scaled_memory, width))
        )
        cv2.transpose(block, turned)
        _combine(_flat(turned), *taps, sums[: 3 * len(block)], _flat(scaled))
        cv2.transpose(scaled, output[top : top + rows])
    return output


def _flat(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3) -> (h, 3 w), without a copy where each row is contiguous."""
    return pixels.reshape(pixels.shape[0], -1)


def _taps(size_in: int, size_out: int, kernel: Filter) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Pillow's coefficients along one axis: output i = sum of weights[i, j] * input[first + j], first <= first + j < stop.

    Returns:
        first and stop (size_out, 2) int64; weights (size_out, K) int32, a fraction of 22 bits, 0 from stop on.
    """
    support = (2.0 if kernel == "bicubic" else 1.0) * max(size_in / size_out, 1.0)
    bounds = np.empty((size_out, 2), np.int64)
    # Room for the last three of four at a time.
    values = np.zeros((size_out, 2 * math.ceil(support) + 4))
    _fill_taps(size_in / size_out, support, size_in, kernel == "bicubic", bounds, values)
    return bounds, values.astype(np.int32)


@_compiled
def _fill_taps(
    scale: float, support: float, size: int, bicubic: bool, bounds: Any, values: Any
) -> None:  # pragma: no cover - compiled
    """Bounds and weights of ``_taps``, the weights half away from 0 and not truncated yet."""
    for i in range(len(bounds)):
        centre = (i + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        stop = min(int(centre + support + 0.5), size)
        bounds[i, 0], bounds[i, 1] = first, stop
        row = values[i]
        total = 0.0
        for j in range(stop - first):
            x = abs((j + first - centre + 0.5) * (1.0 / max(scale, 1.0)))
            value = 0.0
            if not bicubic:
                value = max(1.0 - x, 0.0)
            elif x < 1:
                value = (1.5 * x - 2.5) * x * x + 1
            elif x < 2:
                value = (((x - 5) * x + 8) * x - 4) * -0.5
            row[j] = value
            total += value
        for j in range(stop - first):
            value = row[j] / total * (1 << _BITS)
            row[j] = value + (-0.5 if value < 0 else 0.5)


@_compiled
def _combine(source: Any, bounds: Any, weights: Any, sums: Any, output: Any) -> None:  # pragma: no cover - compiled
    """(N, M) uint8 -> (K, M) uint8, each row the sum of rows that ``_taps`` says; ``sums`` (M,) int32 is scratch."""
    for i in range(len(bounds)):
        last = bounds[i, 1] - 1
        sums[:] = 1 << (_BITS - 1)
        # Four rows at a time, so that the sums are fetched and stored seldom.
        for row in range(bounds[i, 0], bounds[i, 1], 4):
            a, b = source[row], source[min(row + 1, last)]
            c, d = source[min(row + 2, last)], source[min(row + 3, last)]
            j = row - bounds[i, 0]
            wa, wb, wc, wd = weights[i, j], weights[i, j + 1], weights[i, j + 2], weights[i, j + 3]
            for m in range(len(sums)):
                sums[m] += wa * a[m] + wb * b[m] + wc * c[m] + wd * d[m]
        values = output[i]
        for m in range(len(sums)):
            values[m] = min(max(sums[m] >> _BITS, 0), 255)


@_compiled
def _look_up(source: Any, table: Any, output: Any) -> None:  # pragma: no cover - compiled
    """(K, 3 W) uint8 -> the corner (3, K, W) of ``output`` float32."""
    for i in range(len(source)):
        for channel in range(3):
            row, values = output[channel, i, : source.shape[1] // 3], table[channel]
            for x in range(len(row)):
                row[x] = values[source[i, 3 * x + channel]]


def _neighbours(size_in: int, size_out: int) -> tuple[NDArray[Any], ...]:
    """Torch's two neighbours of each output along an axis and their float32 weights: four arrays (size_out,)."""
    if size_in == size_out:
        index = np.arange(size_in)
        return index, index, np.ones(size_in, np.float32), np.zeros(size_in, np.float32)
    scale = np.float32(size_in) / np.float32(size_out)
    outputs = np.arange(size_out, dtype=np.float32) + np.float32(0.5)
    # Exact in double precision and rounded once, as by a fused multiply-add.
    position = np.maximum(np.float64(scale) * outputs - 0.5, 0).astype(np.float32)
    low = np.minimum(position.astype(np.int64), size_in - 1)
    upper = np.clip(position - low.astype(np.float32), np.float32(0), np.float32(1))
    return low, np.minimum(low + 1, size_in - 1), np.float32(1) - upper, upper


def _fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c in float32, rounded once, for use in compiled functions."""
    single = numba.types.float32
    return single(single, single, single), lambda context, builder, signature, arguments: builder.fma(*arguments)


_fma: Any = intrinsic(_fused)


@_compiled
def _stretch(
    source: Any,
    top: Any,
    bottom: Any,
    upper: Any,
    lower: Any,
    left: Any,
    right: Any,
    before: Any,
    after: Any,
    divisor: Any,
    offset: Any,
    gathered: Any,
    weights: Any,
    output: Any,
) -> None:  # pragma: no cover - compiled
    """(h, 3 w) uint8 -> (3, H, W) float32, see ``stretch``; indices and weights of the rows, then of the columns."""
    held_even, held_odd = -1, -1
    width = output.shape[2]
    for y in range(output.shape[1]):
        for row in (top[y], bottom[y]):
            # An even row and the odd one after it never take each other's place.
            if row != (held_odd if row & 1 else held_even):
                pixels = source[row]
                for side, index in enumerate((left, right)):
                    for x in range(width):
                        i = 3 * index[x]
                        gathered[row & 1, side, x] = pixels[i] | pixels[i + 1] << 8 | pixels[i + 2] << 16
                if row & 1:
                    held_odd = row
                else:
                    held_even = row
        for x in range(width):
            weights[0, x], weights[1, x] = upper[y] * before[x], upper[y] * after[x]
            weights[2, x], weights[3, x] = lower[y] * before[x], lower[y] * after[x]
        above, below = gathered[top[y] & 1], gathered[bottom[y] & 1]
        for channel in range(3):
            shift, values = np.uint32(8 * channel), output[channel, y]
            for x in range(width):
                total = np.float32(np.int32((above[1, x] >> shift) & 255)) * weights[1, x]
                total = _fma(np.float32(np.int32((above[0, x] >> shift) & 255)), weights[0, x], total)
                total = _fma(np.float32(np.int32((below[0, x] >> shift) & 255)), weights[2, x], total)
                total = _fma(np.float32(np.int32((below[1, x] >> shift) & 255)), weights[3, x], total)
                values[x] = np.float32(np.int32(total)) / divisor - offset
