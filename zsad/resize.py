"""Scales photographs for the models as Pillow does, byte for byte, several times as fast.

The same 22-bit coefficients, the same two passes with bytes between them. Both work along rows only, where a
processor computes on many values at once; for the other axis the image is turned.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from zsad.kernels import compiled, fma

Filter = Literal["bilinear", "bicubic"]
Taps = tuple[NDArray[np.int64], NDArray[np.int32]]
"""What ``_taps`` returns."""

_BITS = 22
"""Of a coefficient's fraction: 8 bits of pixel and 2 of overshoot fill up an int32."""
_BLOCK = 1 << 21
"""Bytes that are turned together. More stay in the caches less well; fewer mean shorter rows, each with its overhead."""
_KEPT = 1 << 24
"""Most bytes of scratch memory that a thread keeps."""


@dataclass(frozen=True)
class Normalisation:
    """What becomes of byte b of a channel: ``(b / divisor - mean) / std``, rounded to float32 after each operation.

    Attributes:
        divisor: 255, or 1 where mean and std are those of bytes.
        mean, std: of the three channels.
    """

    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @cached_property
    def arrays(self) -> tuple[np.float32, NDArray[np.float32], NDArray[np.float32]]:
        """Divisor, mean and std in float32."""
        return np.float32(self.divisor), np.array(self.mean, np.float32), np.array(self.std, np.float32)


@dataclass(frozen=True)
class Padded:
    """Pixels with their edge repeated around them, as ``np.pad(..., mode="edge")``, without the memory for that.

    Attributes:
        pixels: (h, w, 3) uint8.
        top, bottom, left, right: rows and columns that are added, 0 or more.
    """

    pixels: NDArray[np.uint8]
    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height and width with the padding, and 3."""
        height, width = self.pixels.shape[:2]
        return self.top + height + self.bottom, self.left + width + self.right, 3

    def array(self) -> NDArray[np.uint8]:
        """With the padding: (H, W, 3) uint8."""
        return np.pad(self.pixels, ((self.top, self.bottom), (self.left, self.right), (0, 0)), mode="edge")


class _Thread(threading.local):
    """What each thread has of its own."""

    memory: NDArray[np.uint8] = np.empty(0, np.uint8)


_thread = _Thread()


def resize_into(
    output: NDArray[np.float32],
    pixels: NDArray[np.uint8] | Padded,
    kernel: Filter,
    normalisation: Normalisation,
    size: tuple[int, int] | None = None,
) -> None:
    """``PIL.Image.resize`` of an RGB image, byte for byte, then normalised, channels first.

    The values are those of Pillow 13, whichever is installed: older ones scale the width first even where the height
    shrinks far more, which gives other bytes there.

    Args:
        output: (3, H, W) float32, contiguous; its upper left corner is filled in.
        pixels: (h, w, 3) uint8; a window of a larger image need not be copied. With padding, the result is that of the
            padded image, which is never made.
        kernel: ``bilinear`` or ``bicubic``, widened when scaling down (antialiasing).
        normalisation: what becomes of a byte.
        size: height and width to scale to, at least 1 and at most (H, W); None = these.

    Raises:
        ValueError: pixels or output of another type or shape, or a size that does not fit.
    """
    height, width = size or output.shape[1:]
    padded = pixels if isinstance(pixels, Padded) else Padded(pixels, 0, 0, 0, 0)
    check_pixels(padded.pixels)
    fits = output.ndim == 3 and 1 <= height <= output.shape[1] and 1 <= width <= output.shape[2]
    if output.dtype != np.float32 or len(output) != 3 or not fits:
        raise ValueError(
            f"cannot scale to {height} x {width} in {output.dtype} {output.shape}; expected float32 (3, H, W)"
        )
    vertical = _taps(len(padded.pixels), height, kernel, padded.top, padded.bottom)
    horizontal = _taps(padded.pixels.shape[1], width, kernel, padded.left, padded.right)
    inside = padded.pixels
    if _rows_first(padded.shape, height, width):
        inside, vertical = _rows(inside, vertical), _taps(height, height, kernel)
    rows = _columns(inside, horizontal) if width != padded.shape[1] or padded.left or padded.right else _turned(inside)
    sums, values = np.empty(3 * width, np.int32), np.empty(3 * width, np.uint8)
    _combine_and_normalise(_flat(rows), *vertical, sums, values, *normalisation.arrays, output)


def check_pixels(pixels: NDArray[np.uint8]) -> None:
    """Raises ValueError unless these are pixels, uint8 (h, w, 3), at least one."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"cannot scale {pixels.dtype} pixels of shape {pixels.shape}; expected uint8 (h, w, 3)")


def _rows_first(shape: tuple[int, ...], height: int, width: int) -> bool:
    """Whether Pillow 13 scales the height first: where that drops many more lines. Older ones never do."""
    return height < shape[0] and shape[0] - height > 2 * (shape[1] - width)


def _rows(pixels: NDArray[np.uint8], taps: Taps) -> NDArray[np.uint8]:
    """(h, w, 3) -> (height, w, 3)."""
    output = np.empty((len(taps[0]), *pixels.shape[1:]), np.uint8)
    # A kernel sees one memory layout only: processes that compile it for several at once can mix them up on disk.
    pixels = np.ascontiguousarray(pixels)
    _combine(_flat(pixels), *taps, np.empty(3 * pixels.shape[1], np.int32), _flat(output))
    return output


def _turned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3) -> (h, 3, w)."""
    return np.ascontiguousarray(pixels.transpose(0, 2, 1))


def _columns(pixels: NDArray[np.uint8], taps: Taps) -> NDArray[np.uint8]:
    """(h, w, 3) -> (h, 3, width), which is good until the next call."""
    (height, before), width = pixels.shape[:2], len(taps[0])
    rows = min(height, max(64, _BLOCK // (3 * before) // 64 * 64))
    sums = np.empty(3 * rows, np.int32)
    memory = _scratch(3 * (height * width + rows * (before + width)))
    output = memory[: 3 * height * width].reshape(height, 3, width)
    turned_memory, scaled_memory = memory[output.size :], memory[output.size + 3 * rows * before :]
    for top in range(0, height, rows):
        block = _flat(pixels[top : top + rows])
        lines = len(block)
        turned = turned_memory[: block.size].reshape(3 * before, lines)
        scaled = scaled_memory[: 3 * lines * width].reshape(width, 3 * lines)
        # Byte by byte, which is far faster than in pixels of three bytes: column, channel, row.
        cv2.transpose(block, turned)
        _combine(turned.reshape(before, 3 * lines), *taps, sums[: 3 * lines], scaled)
        for channel in range(3):
            columns = scaled[:, channel * lines : (channel + 1) * lines]
            cv2.transpose(columns, output[top : top + rows, channel])
    return output


def _scratch(size: int) -> NDArray[np.uint8]:
    """Memory of this thread that nobody reads any more; the same at every call where it is not too large to be kept.

    New memory has to be cleared by the system first, page by page, which takes as long as scaling does.
    """
    if size > _KEPT:
        return np.empty(size, np.uint8)
    if size > len(_thread.memory):
        _thread.memory = np.empty(size, np.uint8)
    return _thread.memory[:size]


def _flat(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3) -> (h, 3 w), without a copy where each row is contiguous."""
    return pixels.reshape(pixels.shape[0], -1)


@lru_cache(maxsize=64)
def _taps(size_in: int, size_out: int, kernel: Filter, before: int = 0, after: int = 0) -> Taps:
    """Pillow's coefficients along one axis: output i = sum of weights[i, j] * input[first + j], first <= first + j < stop.

    Args:
        size_in, size_out: pixels before and after.
        kernel: as in ``resize_into``.
        before, after: how often the first and the last pixel are repeated outside of ``size_in``. What their copies weigh,
            they weigh.

    Returns:
        first and stop (size_out, 2) int64; weights (size_out, K) int32, a fraction of 22 bits, 0 from stop on.
    """
    padded = before + size_in + after
    support = (2.0 if kernel == "bicubic" else 1.0) * max(padded / size_out, 1.0)
    bounds = np.empty((size_out, 2), np.int64)
    # Room for the last three of four at a time.
    values = np.zeros((size_out, 2 * math.ceil(support) + 4))
    _fill_taps(padded / size_out, support, padded, kernel == "bicubic", bounds, values)
    weights = values.astype(np.int32)
    if before or after:
        owners = np.clip(bounds[:, :1] + np.arange(weights.shape[1]) - before, 0, size_in - 1)
        first, stop = np.clip(bounds[:, 0] - before, 0, size_in - 1), np.clip(bounds[:, 1] - before, 1, size_in)
        bounds = np.stack([first, stop], axis=1)
        row, place = np.nonzero(weights)
        folded = np.zeros_like(weights)
        np.add.at(folded, (row, owners[row, place] - first[row]), weights[row, place])
        weights = folded
    bounds.setflags(write=False)
    weights.setflags(write=False)
    return bounds, weights


@compiled
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


@numba.njit(nogil=True, error_model="numpy")
def _add_three(a: Any, b: Any, c: Any, weights: Any, values: Any) -> None:  # pragma: no cover - compiled
    """Three rows (M,) uint8 -> one (M,) uint8, their sum by the first three weights: all of most bilinear taps."""
    wa, wb, wc = weights[0], weights[1], weights[2]
    for m in range(len(values)):
        total = np.int32((1 << (_BITS - 1)) + wa * a[m] + wb * b[m] + wc * c[m])
        values[m] = min(max(total >> _BITS, 0), 255)


@numba.njit(nogil=True, error_model="numpy")
def _add_up(source: Any, bounds: Any, weights: Any, sums: Any, values: Any) -> None:  # pragma: no cover - compiled
    """Rows of (N, M) uint8 -> one (M,) uint8, their sum as ``_taps`` says; ``sums`` (M,) int32 is scratch."""
    first, last = bounds[0], bounds[1] - 1
    # Four rows at a time, so that the sums are fetched and stored seldom; up to three alone, and the last two after fours.
    for row in range(first, last + 1, 4):
        a, b = source[row], source[min(row + 1, last)]
        c, d = source[min(row + 2, last)], source[min(row + 3, last)]
        j = row - first
        wa, wb, wc, wd = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        if j > 0 and row + 2 > last:
            for m in range(len(values)):
                total = np.int32(sums[m] + wa * a[m] + wb * b[m])
                values[m] = min(max(total >> _BITS, 0), 255)
        elif j == 0 and row + 3 > last:
            _add_three(a, b, c, weights, values)
        elif j == 0 and row + 4 > last:
            for m in range(len(values)):
                total = np.int32((1 << (_BITS - 1)) + wa * a[m] + wb * b[m] + wc * c[m] + wd * d[m])
                values[m] = min(max(total >> _BITS, 0), 255)
        elif j == 0:
            for m in range(len(values)):
                sums[m] = (1 << (_BITS - 1)) + wa * a[m] + wb * b[m] + wc * c[m] + wd * d[m]
        elif row + 4 > last:
            for m in range(len(values)):
                total = np.int32(sums[m] + wa * a[m] + wb * b[m] + wc * c[m] + wd * d[m])
                values[m] = min(max(total >> _BITS, 0), 255)
        else:
            for m in range(len(values)):
                sums[m] += wa * a[m] + wb * b[m] + wc * c[m] + wd * d[m]


@compiled
def _combine(source: Any, bounds: Any, weights: Any, sums: Any, output: Any) -> None:  # pragma: no cover - compiled
    """(N, M) uint8 -> (K, M) uint8, each row the sum of rows that ``_taps`` says; ``sums`` (M,) int32 is scratch."""
    for i in range(len(bounds)):
        _add_up(source, bounds[i], weights[i], sums, output[i])


@compiled
def _combine_and_normalise(
    source: Any, bounds: Any, weights: Any, sums: Any, values: Any, divisor: Any, mean: Any, std: Any, output: Any
) -> None:  # pragma: no cover - compiled
    """(N, 3 W) uint8, channel by channel -> the corner (3, K, W) of ``output``: ``_combine``, and each byte normalised.

    ``sums`` (3 W,) int32 and ``values`` (3 W,) uint8 are scratch.
    """
    width = len(values) // 3
    for i in range(len(bounds)):
        _add_up(source, bounds[i], weights[i], sums, values)
        for channel in range(3):
            row, own = output[channel, i], values[channel * width : (channel + 1) * width]
            centre, spread = mean[channel], std[channel]
            once, again = np.float32(1) / divisor, np.float32(1) / spread
            for x in range(len(own)):
                level = _quotient(np.float32(np.int32(own[x])), divisor, once) - centre
                row[x] = _quotient(level, spread, again)


@numba.njit(nogil=True, error_model="numpy")
def _quotient(value: Any, divisor: Any, reciprocal: Any) -> Any:  # pragma: no cover - compiled
    """value / divisor in float32, from the rounded reciprocal and what the product with it lacks (Markstein, 1990).

    A processor divides several times as slowly as it multiplies.
    """
    product = value * reciprocal
    return fma(fma(-product, divisor, value), reciprocal, product)
