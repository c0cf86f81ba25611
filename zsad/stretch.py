"""Scales photographs as ``F.interpolate`` does without antialiasing, with torch's values, several times as fast."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from zsad.kernels import compiled, fma
from zsad.resize import check_pixels


def stretch(
    pixels: NDArray[np.uint8],
    height: int,
    width: int,
    divisor: float,
    offset: float,
    output: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """``F.interpolate(mode="bilinear")`` of float32 pixels, truncated to bytes; each divided, less an offset.

    Without antialiasing. Torch has two ways to add up the four neighbours and chooses by its number of threads;
    this is the one of a single thread, on processors with fused multiply-add, whatever the number.

    Args:
        pixels: (h, w, 3) uint8.
        height, width: of the result.
        divisor, offset: of byte b becomes ``b / divisor - offset``, rounded to float32 after each operation.
        output: (3, height, width) float32, contiguous, to fill in; None = a new array.

    Returns:
        The output.

    Raises:
        ValueError: pixels of another type or shape.
    """
    check_pixels(pixels)
    output = np.empty((3, height, width), np.float32) if output is None else output
    rows, (left, right, before, after) = _neighbours(pixels.shape[0], height), _neighbours(pixels.shape[1], width)
    if pixels.shape[1] < 3:
        # So that a row has the eight bytes that are fetched at once.
        pixels = np.pad(pixels, ((0, 0), (0, 3 - pixels.shape[1]), (0, 0)))
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    length = 3 * pixels.shape[1]
    every = as_strided(pixels, (len(pixels), length - 7, 8), (pixels.strides[0], 1, 1), writeable=False)
    # The last pixels have too few bytes after them: they are fetched with bytes before.
    starts = np.minimum(3 * left, length - 8)
    shifts = 8 * (3 * np.stack([left, right]) - starts)
    _stretch(
        every.view(np.uint64)[..., 0],
        *rows,
        starts.astype(np.uint32),
        shifts.astype(np.uint64),
        before,
        after,
        np.float32(divisor),
        np.float32(offset),
        np.empty(width, np.uint64),
        np.empty((2, 2, 3, width), np.float32),
        output,
    )
    return output


def _neighbours(size_in: int, size_out: int) -> tuple[NDArray[Any], ...]:
    """Torch's two neighbours of each output along an axis and their float32 weights: four arrays (size_out,)."""
    if size_in == size_out:
        index = np.arange(size_in)
        return index, index, np.ones(size_in, np.float32), np.zeros(size_in, np.float32)
    scale = np.float32(size_in) / np.float32(size_out)
    outputs = np.arange(size_out, dtype=np.float32) + np.float32(0.5)
    # Exact in double precision and rounded once, as by a fused multiply-add.
    position = np.maximum(np.float64(scale) * outputs.astype(np.float64) - 0.5, 0).astype(np.float32)
    low = np.minimum(position.astype(np.int64), size_in - 1)
    upper = np.clip(position - low.astype(np.float32), np.float32(0), np.float32(1))
    return low, np.minimum(low + 1, size_in - 1), np.float32(1) - upper, upper


@compiled
def _stretch(
    source: Any,
    top: Any,
    bottom: Any,
    upper: Any,
    lower: Any,
    starts: Any,
    shifts: Any,
    before: Any,
    after: Any,
    divisor: Any,
    offset: Any,
    fetched: Any,
    held: Any,
    output: Any,
) -> None:  # pragma: no cover - compiled
    """(h, 3 w - 7) uint64, the eight bytes from each on -> (3, H, W) float32, see ``stretch``.

    Indices and weights of the rows; then where to fetch the eight bytes (W,) that hold the left and the right column,
    by how many bits to shift them for either (2, W), and the columns' weights. Scratch: ``fetched`` (W,) uint64;
    ``held`` (2, 2, 3, W) float32, the left and right neighbours of an even and an odd row, per channel.
    """
    held_even, held_odd = -1, -1
    for y in range(output.shape[1]):
        for row in (top[y], bottom[y]):
            # An even row and the odd one after it never take each other's place.
            if row != (held_odd if row & 1 else held_even):
                _fetch(source[row], starts, shifts, fetched, held[row & 1])
                if row & 1:
                    held_odd = row
                else:
                    held_even = row
        above, below = held[top[y] & 1], held[bottom[y] & 1]
        for channel in range(3):
            values = output[channel, y]
            a, b, c, d = above[0, channel], above[1, channel], below[0, channel], below[1, channel]
            for x in range(len(values)):
                total = b[x] * (upper[y] * after[x])
                total = fma(a[x], upper[y] * before[x], total)
                total = fma(c[x], lower[y] * before[x], total)
                total = fma(d[x], lower[y] * after[x], total)
                values[x] = np.float32(np.int32(total)) / divisor - offset


@numba.njit(nogil=True, error_model="numpy")
def _fetch(source: Any, starts: Any, shifts: Any, fetched: Any, output: Any) -> None:  # pragma: no cover - compiled
    """One of ``_stretch``'s rows at its columns (W,) -> (2, 3, W) float32."""
    for x in range(len(starts)):
        fetched[x] = source[starts[x]]
    for side in range(2):
        shift, red, green, blue = shifts[side], output[side, 0], output[side, 1], output[side, 2]
        for x in range(len(starts)):
            pixel = np.uint32(fetched[x] >> shift[x])
            red[x] = np.float32(np.int32(pixel & np.uint32(255)))
            green[x] = np.float32(np.int32((pixel >> np.uint32(8)) & np.uint32(255)))
            blue[x] = np.float32(np.int32((pixel >> np.uint32(16)) & np.uint32(255)))
