"""SAM's two upsamplings on a CPU, row by row, and what is asked of the result while a row is in the caches.

A native row is made of two rows of SAM's input, each of which is made of two low-resolution rows. The operations are
those of torch's kernels in their order, so on a processor with fused multiply-add, which torch uses where there is one,
the values are the same bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from zsad.kernels import compiled, fma


class Stage(NamedTuple):
    """One bilinear upsampling (h, w) -> (H, W).

    Attributes:
        top, bottom: (H,) int64 rows of the source, the same or adjacent ones.
        upper, lower: (H,) float32, their weights.
        left, right: (W,) uint32 columns of the source.
        before, after: (W,) float32, their weights.
        joint: whether all four neighbours are added up at once, or along the columns first.
    """

    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    upper: NDArray[np.float32]
    lower: NDArray[np.float32]
    left: NDArray[np.uint32]
    right: NDArray[np.uint32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    joint: bool


@compiled
def extents(low: Any, chosen: Any, level: Any, found: Any) -> None:  # pragma: no cover - compiled
    """Of ``chosen`` (K,) masks the first and last row, then the first and last column, with an entry over the level.

    Of ``low`` (M, h, w) float32 into ``found`` (4, K) int64; where there is none, the first ones are h and w and the
    last ones -1.
    """
    peaks = np.empty(low.shape[2], np.float32)
    for i in range(len(chosen)):
        mask = low[chosen[i]]
        peaks[:] = -np.inf
        first, last = len(mask), -1
        for y in range(len(mask)):
            if _count_and_raise(mask[y], level, peaks) > 0:
                first, last = min(first, y), y
        left, right = _reach(peaks, level)
        found[0, i], found[1, i], found[2, i], found[3, i] = first, last, left, right


@compiled
def measure(
    low: Any,
    chosen: Any,
    boxes: Any,
    coarse: Any,
    fine: Any,
    level: Any,
    raised: Any,
    lowered: Any,
    stability: Any,
    tight: Any,
) -> None:  # pragma: no cover - compiled
    """Of ``chosen`` (K,) masks of ``low`` (M, h, w) float32: ``stability`` (K,) float32 and ``tight`` boxes (K, 4) int64.

    As ``sam_masks.measure`` says, in the windows ``boxes`` (K, 4) int64. The float32 levels are the threshold, and it
    plus and minus the offset.
    """
    rows, unpainted = _scratch(coarse, fine), np.empty((0, 0), np.bool_)
    for i in range(len(chosen)):
        stability[i] = np.nan
        tight[i] = 0
        x0, x1 = boxes[i, 0], boxes[i, 2]
        if x0 < x1:
            peaks = np.full(x1 - x0, -np.inf, np.float32)
            inner, outer, first, last = _scan(
                low[chosen[i]], 0, 0, boxes[i], coarse, fine, level, raised, lowered, rows, peaks, unpainted
            )
            stability[i] = np.float32(inner) / np.float32(outer)
            if last >= 0:
                left, right = _reach(peaks, level)
                tight[i, 0], tight[i, 1], tight[i, 2], tight[i, 3] = x0 + left, first, x0 + right + 1, last + 1


@compiled
def paint(
    low: Any, row: Any, column: Any, box: Any, coarse: Any, fine: Any, level: Any, painted: Any
) -> None:  # pragma: no cover - compiled
    """What of a mask is over the level inside ``box`` (4,) int64, into ``painted`` (y1 - y0, x1 - x0) bool.

    ``low`` (h, w) float32 is the part of the low-resolution mask from ``row`` and ``column`` on.
    """
    peaks = np.empty(0, np.float32)
    _scan(low, row, column, box, coarse, fine, level, level, level, _scratch(coarse, fine), peaks, painted)


@numba.njit(nogil=True, error_model="numpy")
def _scratch(coarse: Any, fine: Any) -> Any:  # pragma: no cover - compiled
    """Rows for ``_scan`` to work with."""
    return np.empty((10, max(len(coarse.left), len(fine.left))), np.float32)


@numba.njit(nogil=True, error_model="numpy")
def _scan(
    low: Any,
    row: Any,
    column: Any,
    box: Any,
    coarse: Any,
    fine: Any,
    level: Any,
    raised: Any,
    lowered: Any,
    rows: Any,
    peaks: Any,
    painted: Any,
) -> Any:  # pragma: no cover - compiled
    """Make the rows of a window, and paint them where ``painted`` has rows, else count.

    Returns:
        How many are over ``raised`` and ``lowered``, and the first and last y with one over ``level``, y1 and -1 for
        none. ``peaks`` (x1 - x0,) are raised to the highest of each column.
    """
    x0, y0, x1, y1 = box
    # The columns of the input that are read.
    c0, c1 = fine.left[x0], fine.right[x1 - 1] + 1
    coarse_columns = coarse.left[c0:c1], coarse.right[c0:c1], coarse.before[c0:c1], coarse.after[c0:c1]
    fine_columns = fine.left[x0:x1], fine.right[x0:x1], fine.before[x0:x1], fine.after[x0:x1]
    # Of two adjacent rows one is even, so neither takes the other's place.
    even_low, odd_low = (rows[0, c0:c1], rows[1, c0:c1]), (rows[2, c0:c1], rows[3, c0:c1])
    even, odd = (rows[4, x0:x1], rows[5, x0:x1]), (rows[6, x0:x1], rows[7, x0:x1])
    made, native = rows[8, c0:c1], rows[9, x0:x1]
    in_even_low, in_odd_low, in_even, in_odd = -1, -1, -1, -1
    inner, outer, first, last = 0, 0, y1, -1
    for y in range(y0, y1):
        for m in (fine.top[y], fine.bottom[y]):
            if m != (in_odd if m & 1 else in_even):
                for r in (coarse.top[m], coarse.bottom[m]):
                    if r != (in_odd_low if r & 1 else in_even_low):
                        _across(low[r - row], column, coarse_columns, coarse.joint, odd_low if r & 1 else even_low)
                        in_odd_low, in_even_low = (r, in_even_low) if r & 1 else (in_odd_low, r)
                above, below = odd_low if coarse.top[m] & 1 else even_low, odd_low if coarse.bottom[m] & 1 else even_low
                _down(above, below, coarse.upper[m], coarse.lower[m], coarse_columns, coarse.joint, made)
                _across(made, c0, fine_columns, fine.joint, odd if m & 1 else even)
                in_odd, in_even = (m, in_even) if m & 1 else (in_odd, m)
        above, below = odd if fine.top[y] & 1 else even, odd if fine.bottom[y] & 1 else even
        _down(above, below, fine.upper[y], fine.lower[y], fine_columns, fine.joint, native)
        if len(painted):
            _compare(native, level, painted[y - y0])
        else:
            # The published sums, their int16 rows included.
            inner += int(np.int16(_count(native, raised)))
            outer += int(np.int16(_count(native, lowered)))
            if _count_and_raise(native, level, peaks) > 0:
                first, last = min(first, y), y
    return inner, outer, first, last


@numba.njit(nogil=True, error_model="numpy")
def _across(source: Any, start: Any, columns: Any, joint: Any, output: Any) -> None:  # pragma: no cover - compiled
    """A source row from column ``start`` on: what ``_down`` needs of it, its two neighbours of each column or their sum."""
    left, right, before, after = columns
    first, second = output
    offset = np.uint32(start)
    if joint:
        for x in range(len(first)):
            first[x] = source[left[x] - offset]
            second[x] = source[right[x] - offset]
    else:
        for x in range(len(first)):
            first[x] = fma(source[left[x] - offset], before[x], source[right[x] - offset] * after[x])


@numba.njit(nogil=True, error_model="numpy")
def _down(
    above: Any, below: Any, upper: Any, lower: Any, columns: Any, joint: Any, output: Any
) -> None:  # pragma: no cover - compiled
    """An upsampled row from what ``_across`` made of the two source rows around it."""
    _, _, before, after = columns
    a, b = above
    c, d = below
    if joint:
        for x in range(len(output)):
            total = b[x] * (upper * after[x])
            total = fma(a[x], upper * before[x], total)
            total = fma(c[x], lower * before[x], total)
            output[x] = fma(d[x], lower * after[x], total)
    else:
        for x in range(len(output)):
            output[x] = fma(a[x], upper, c[x] * lower)


@numba.njit(nogil=True, error_model="numpy")
def _compare(values: Any, level: Any, over: Any) -> None:  # pragma: no cover - compiled
    for x in range(len(values)):
        over[x] = values[x] > level


@numba.njit(nogil=True, error_model="numpy")
def _count(values: Any, level: Any) -> Any:  # pragma: no cover - compiled
    """How many are over the level."""
    count = np.int32(0)
    for x in range(len(values)):
        count += np.int32(values[x] > level)
    return count


@numba.njit(nogil=True, error_model="numpy")
def _count_and_raise(values: Any, level: Any, peaks: Any) -> Any:  # pragma: no cover - compiled
    """How many are over the level; ``peaks`` are raised to the values."""
    count = np.int32(0)
    for x in range(len(values)):
        count += np.int32(values[x] > level)
        peaks[x] = values[x] if values[x] > peaks[x] else peaks[x]
    return count


@numba.njit(nogil=True, error_model="numpy")
def _reach(values: Any, level: Any) -> Any:  # pragma: no cover - compiled
    """First and last index of a value over the level; the length and -1 where there is none."""
    first, last = len(values), -1
    for x in range(len(values)):
        if values[x] > level:
            first, last = min(first, x), x
    return first, last
