"""Loops that NumPy has no word for, compiled when they are first called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from numpy.typing import NDArray


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
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
        except NumbaError:
            raise
        except Exception:
            # What is kept is damaged, or nothing more can be kept; this one does without.
            kernel = numba.njit(**options)(function)
            return kernel(*arguments)

    return call


def _fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c in float32, rounded once, for use in compiled functions.

    Those of other files that are kept on disk do not notice a change here.
    """
    single = numba.types.float32
    return single(single, single, single), lambda context, builder, signature, arguments: builder.fma(*arguments)


fma: Any = intrinsic(_fused)


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """``values.astype(np.float16)``, bit for bit; several times as fast where all lie in [0, 1]."""
    values = np.ascontiguousarray(values)
    bits = np.empty(values.shape, np.uint16)
    if _round_all(values.reshape(-1), values.reshape(-1).view(np.uint32), bits.reshape(-1)):
        return bits.view(np.float16)
    return values.astype(np.float16)


@compiled
def _round_all(values: Any, singles: Any, halves: Any) -> Any:  # pragma: no cover - compiled
    """The bits of (N,) float32 rounded to float16, half to even; whether all lie in [0, 1], else they are wrong."""
    other = np.uint32(0)
    for i in range(len(values)):
        bits = singles[i]
        # Read as integers, the negative ones and what is no number lie above 1.0.
        other |= np.uint32(bits > np.uint32(0x3F800000))
        # Drop 13 bits of the fraction, and 112 of the exponent.
        normal = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
        # Below 2^-14 a step is 2^-24, which is that of float32 from 0.5 to 1: the sum is rounded alike.
        tiny = np.uint32(np.int32(((values[i] + np.float32(0.5)) - np.float32(0.5)) * np.float32(1 << 24)))
        halves[i] = tiny if bits < np.uint32(0x38800000) else normal - np.uint32(112 << 10)
    return other == 0


def peak_and_mean(values: NDArray[np.float16]) -> tuple[float, float]:
    """``values.max()`` and ``values.mean(dtype=np.float64)``, bit for bit; several times as fast in [0, 1].

    There a float16 is a whole number of steps of 2^-24, and no order of adding them up rounds.
    """
    highest, steps = _add_halves(np.ascontiguousarray(values).view(np.uint16).reshape(-1))
    if highest > _ONE:
        return float(values.max()), float(values.mean(dtype=np.float64))
    # The bits of floats that are not negative sort as the floats do.
    return float(np.uint16(highest).view(np.float16)), steps / (values.size << 24)


_ONE = 0x3C00
"""The bits of 1.0 in float16; those of negative values and of what is no number lie above."""


@compiled
def _add_halves(bits: Any) -> Any:  # pragma: no cover - compiled
    """The highest of (N,) uint16, and the sum of the float16 of these bits in steps of 2^-24 where all lie in [0, 1]."""
    highest, total = np.uint16(0), np.uint64(0)
    for i in range(len(bits)):
        highest = max(highest, bits[i])
        exponent, fraction = np.uint32(bits[i] >> 10), np.uint32(bits[i] & 0x3FF)
        normal = (fraction | np.uint32(0x400)) << (max(exponent, np.uint32(1)) - np.uint32(1))
        total += np.uint64(normal if exponent > 0 else fraction)
    return highest, total


@compiled
def mean_of_tiles(
    maps: Any,
    windows: Any,
    low_y: Any,
    high_y: Any,
    weight_y: Any,
    low_x: Any,
    high_x: Any,
    weight_x: Any,
    first: int,
    blended: Any,
    count: Any,
    output: Any,
) -> None:  # pragma: no cover - compiled
    """Rows of ``zsad.projection``'s mean, from row ``first`` on; the order of the operations is part of ``PROJECTION``.

    Args:
        maps: (T, S, S) float32.
        windows: (T, 4) int64, left, top, right and bottom of what the image has of each tile.
        low_y, high_y: uint32, the neighbours along y of the rows of the first window, then of the second, ...
        weight_y: float32, of the second neighbour. The same along x.
        blended, count: (S,) and (W,) float32, scratch.
        output: (R, W) float32, filled in.
    """
    one = np.float32(1)
    for i in range(len(output)):
        y, row = first + i, output[i]
        row[:] = 0
        count[:] = 0
        tiles = rows = columns = 0
        for t in range(len(windows)):
            left, top, right, bottom = windows[t]
            if top <= y < bottom:
                tap = rows + y - top
                above, below, weight = maps[t, low_y[tap]], maps[t, high_y[tap]], weight_y[tap]
                for s in range(len(blended)):
                    blended[s] = above[s] * (one - weight) + below[s] * weight
                low, high, weights = low_x[columns:], high_x[columns:], weight_x[columns:]
                own, hits = row[left:right], count[left:right]
                for x in range(len(own)):
                    own[x] += blended[low[x]] * (one - weights[x]) + blended[high[x]] * weights[x]
                    hits[x] += one
                tiles += 1
            rows += bottom - top
            columns += right - left
        if tiles > 1:
            for x in range(len(row)):
                row[x] /= max(count[x], one)
