"""SAM's two upsamplings on a CPU, row by row, of what low-resolution logits leave open.

An upsampled logit is a mean of a few low-resolution ones. Where all of those lie well on one side of every level that is
asked about, so does it, and it need not be made: that is most of a mask, whose edge is thin.

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

_BAND = 32
"""Rows of a window that are looked at together."""
_STEP = 16
"""The pixels before a skipped part are computed, a multiple of this many, which suits vector instructions."""
_WORTHWHILE = 32
"""A part of a row is skipped only if it has at least this many pixels."""

_OVER, _UNDER = np.uint8(1), np.uint8(2)
"""Bits of a column of a band: all its values lie over every level, or under every level.

Both are set at first. A value clears the bits that it contradicts; a column without bits has to be computed.
"""

_LOW, _INPUT, _MADE, _ROWS = 0, 4, 8, 9
"""Places of the working rows.

From ``_LOW`` on lies what ``_across`` makes of an even low-resolution row (two rows) and of an odd one (two rows), from
``_INPUT`` on the same of rows of the input, and at ``_MADE`` a row of the input itself. ``_ROWS`` is their number.
"""


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


class Geometry(NamedTuple):
    """Both upsamplings, (h, w) -> padded input -> (H, W), and what depends on what.

    Attributes:
        coarse, fine: the upsamplings.
        first_row, last_row: (H,) int64, the low-resolution rows that a native one depends on.
        first_column, last_column: (W,) int64, likewise.
        begin: (w,) int64, for each low-resolution column the first native one that depends on no earlier one; W if none.
        end: (w,) int64, for each low-resolution column the first native one that depends on a later one; W if none.
    """

    coarse: Stage
    fine: Stage
    first_row: NDArray[np.int64]
    last_row: NDArray[np.int64]
    first_column: NDArray[np.int64]
    last_column: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


class _Found(NamedTuple):
    """What is found out about a window.

    Attributes:
        counts: (3, y1 - y0) int32, how many pixels of each row are over each level.
        peaks: (x1 - x0,) float32, the highest that was made of each column: inf where a part of it is known to be over
            every level, and -inf where nothing was made.
        painted: (y1 - y0, x1 - x0) bool, what is over the threshold. If it has no rows, ``counts`` and ``peaks`` are
            filled instead.
    """

    counts: NDArray[np.int32]
    peaks: NDArray[np.float32]
    painted: NDArray[np.bool_]


@compiled
def extents(low: Any, chosen: Any, level: Any, found: Any) -> None:  # pragma: no cover - compiled
    """Find the first and last row, then the first and last column, of each chosen mask with an entry over the level.

    The masks are ``low`` (M, h, w) float32, of which ``chosen`` (K,) are the indices. The result is written to ``found``
    (4, K) int64. Where no entry is over the level, it is h, -1, w, -1.
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
    low: Any, chosen: Any, boxes: Any, geometry: Any, levels: Any, stability: Any, tight: Any
) -> None:  # pragma: no cover - compiled
    """Write the stability scores (K,) float32 and tight boxes (K, 4) int64 of the ``chosen`` (K,) masks.

    They are defined by ``sam_masks.measure``. Of the mask ``low[chosen[i]]``, ``low`` being (M, h, w) float32, only the
    window ``boxes[i]``, (K, 4) int64, is computed. The three float32 levels are the threshold, and the threshold plus
    and minus the offset, which is not negative.
    """
    rows, unpainted = _scratch(geometry), np.empty((0, 0), np.bool_)
    for i in range(len(chosen)):
        stability[i] = np.nan
        tight[i] = 0
        x0, y0, x1, y1 = boxes[i]
        if x0 < x1:
            counts, peaks = np.zeros((3, y1 - y0), np.int32), np.full(x1 - x0, -np.inf, np.float32)
            _fill(low[chosen[i]], (0, 0), boxes[i], geometry, levels, rows, _Found(counts, peaks, unpainted))
            inner, outer, first, last = 0, 0, y1, -1
            for y in range(y0, y1):
                # The published sums, their int16 rows included.
                inner += int(np.int16(counts[1, y - y0]))
                outer += int(np.int16(counts[2, y - y0]))
                if counts[0, y - y0] > 0:
                    first, last = min(first, y), y
            stability[i] = np.float32(inner) / np.float32(outer)
            if last >= 0:
                left, right = _reach(peaks, levels[0])
                tight[i, 0], tight[i, 1], tight[i, 2], tight[i, 3] = x0 + left, first, x0 + right + 1, last + 1


@compiled
def paint(
    low: Any, corner: Any, box: Any, geometry: Any, level: Any, painted: Any
) -> None:  # pragma: no cover - compiled
    """Write to ``painted`` (y1 - y0, x1 - x0) bool which pixels of a mask inside ``box`` (4,) int64 are over the level.

    ``low`` (h, w) float32 is a part of the low-resolution mask. It begins at the row and column ``corner``.
    """
    found = _Found(np.empty((3, 0), np.int32), np.empty(0, np.float32), painted)
    _fill(low, corner, box, geometry, (level, level, level), _scratch(geometry), found)


@numba.njit(nogil=True, error_model="numpy")
def _scratch(geometry: Any) -> Any:  # pragma: no cover - compiled
    """Rows for ``_make`` to work with."""
    return np.empty((_ROWS, max(len(geometry.coarse.left), len(geometry.fine.left))), np.float32)


@numba.njit(nogil=True, error_model="numpy")
def _fill(
    low: Any, corner: Any, box: Any, geometry: Any, levels: Any, rows: Any, found: Any
) -> None:  # pragma: no cover - compiled
    """Find out about a window, band by band: part by part what is known, and what has to be made."""
    x0, y0, x1, y1 = box
    row, column = corner
    _, raised, lowered = levels
    # The margins are far over the rounding of a weighted mean.
    over = raised + np.float32(1e-5) * (np.float32(1) + abs(raised))
    under = lowered - np.float32(1e-5) * (np.float32(1) + abs(lowered))
    c0, c1 = geometry.first_column[x0], geometry.last_column[x1 - 1] + 1
    sides = np.empty(c1 - c0, np.uint8)
    for top in range(y0, y1, _BAND):
        bottom = min(top + _BAND, y1)
        sides[:] = _OVER | _UNDER
        for r in range(geometry.first_row[top], geometry.last_row[bottom - 1] + 1):
            _narrow(low[r - row, c0 - column : c1 - column], over, under, sides)
        x, stop = x0, 0
        while stop < len(sides):
            start, side = stop, sides[stop]
            while stop < len(sides) and sides[stop] == side:
                stop += 1
            # What depends on columns of one side only.
            left, right = max(x, geometry.begin[c0 + start]), min(x1, geometry.end[c0 + stop - 1])
            left += (x - left) % _STEP
            if side != 0 and right - left >= _WORTHWHILE:
                if x < left:
                    _make(low, corner, (x, top, left, bottom), box, geometry, levels, rows, found)
                _know(side == _OVER, (left, top, right, bottom), box, found)
                x = right
        if x < x1:
            _make(low, corner, (x, top, x1, bottom), box, geometry, levels, rows, found)


@numba.njit(nogil=True, error_model="numpy")
def _narrow(values: Any, over: Any, under: Any, sides: Any) -> None:  # pragma: no cover - compiled
    """Of ``sides`` (w,) uint8, leave ``_OVER`` only where a value is above ``over``, ``_UNDER`` where below ``under``."""
    for x in range(len(sides)):
        # Infinite ones stay open: times a weight of 0 they are no number.
        is_over = (values[x] > over) & (values[x] < np.float32(1e30))
        is_under = (values[x] < under) & (values[x] > np.float32(-1e30))
        sides[x] &= np.uint8(is_over) * _OVER | np.uint8(is_under) * _UNDER


@numba.njit(nogil=True, error_model="numpy")
def _know(is_over: Any, part: Any, box: Any, found: Any) -> None:  # pragma: no cover - compiled
    """Note of a part of the window that all of it is over every level, or none of it over any."""
    left, top, right, bottom = part
    x0, y0, _, _ = box
    if len(found.painted):
        painted = found.painted[top - y0 : bottom - y0, left - x0 : right - x0]
        for y in range(painted.shape[0]):
            for x in range(painted.shape[1]):
                painted[y, x] = is_over
    elif is_over:
        # Loops: an operation on arrays takes numba seconds to compile.
        for y in range(top - y0, bottom - y0):
            for level in range(3):
                found.counts[level, y] += right - left
        found.peaks[left - x0 : right - x0] = np.inf


@numba.njit(nogil=True, error_model="numpy")
def _make(
    low: Any, corner: Any, part: Any, box: Any, geometry: Any, levels: Any, rows: Any, found: Any
) -> None:  # pragma: no cover - compiled
    """Upsample a part of the window row by row, and paint or count it."""
    left, top, right, bottom = part
    x0, y0, _, _ = box
    row, column = corner
    coarse, fine = geometry.coarse, geometry.fine
    # The columns of the input that are read.
    c0, c1 = fine.left[left], fine.right[right - 1] + 1
    coarse_columns = coarse.left[c0:c1], coarse.right[c0:c1], coarse.before[c0:c1], coarse.after[c0:c1]
    fine_columns = fine.left[left:right], fine.right[left:right], fine.before[left:right], fine.after[left:right]
    painted, peaks = found.painted[:, left - x0 : right - x0], found.peaks[left - x0 : right - x0]
    # Of two adjacent rows one is even, so neither takes the other's place.
    even_low, odd_low, even, odd = -1, -1, -1, -1
    for y in range(top, bottom):
        for m in (fine.top[y], fine.bottom[y]):
            if m == (odd if m & 1 else even):
                continue
            for r in (coarse.top[m], coarse.bottom[m]):
                if r != (odd_low if r & 1 else even_low):
                    _across(low[r - row], column, coarse_columns, coarse.joint, rows, _LOW + 2 * (r & 1))
                    even_low, odd_low = (even_low, r) if r & 1 else (r, odd_low)
            _down(rows, _place(_LOW, coarse, m), coarse_columns, coarse.joint)
            _across(rows[_MADE], c0, fine_columns, fine.joint, rows, _INPUT + 2 * (m & 1))
            even, odd = (even, m) if m & 1 else (m, odd)
        place = _place(_INPUT, fine, y)
        if len(painted):
            _compare(rows, place, fine_columns, fine.joint, levels, painted, y - y0)
        else:
            _tally(rows, place, fine_columns, fine.joint, levels, found.counts, peaks, y - y0)


@numba.njit(nogil=True, error_model="numpy")
def _place(first: Any, stage: Any, y: Any) -> Any:  # pragma: no cover - compiled
    """Where what ``_across`` made of the rows above and below an upsampled row lies, and their weights."""
    return first + 2 * (stage.top[y] & 1), first + 2 * (stage.bottom[y] & 1), stage.upper[y], stage.lower[y]


@numba.njit(nogil=True, error_model="numpy")
def _across(
    source: Any, start: Any, columns: Any, joint: Any, rows: Any, place: Any
) -> None:  # pragma: no cover - compiled
    """Gather what ``_mean`` needs of one source row, which begins at the column ``start``.

    If ``joint``, that is the left and the right neighbour of every upsampled column, which go to the rows ``place`` and
    ``place + 1``. Otherwise it is their weighted sum, which goes to the row ``place``.
    """
    left, right, before, after = columns
    offset = np.uint32(start)
    if joint:
        for x in range(len(left)):
            rows[place, x] = source[left[x] - offset]
            rows[place + 1, x] = source[right[x] - offset]
    else:
        for x in range(len(left)):
            rows[place, x] = fma(source[left[x] - offset], before[x], source[right[x] - offset] * after[x])


@numba.njit(nogil=True, error_model="numpy")
def _mean(rows: Any, place: Any, columns: Any, joint: Any, x: Any) -> Any:  # pragma: no cover - compiled
    """The upsampled value in column ``x``."""
    above, below, upper, lower = place
    _, _, before, after = columns
    if joint:
        total = rows[above + 1, x] * (upper * after[x])
        total = fma(rows[above, x], upper * before[x], total)
        total = fma(rows[below, x], lower * before[x], total)
        return fma(rows[below + 1, x], lower * after[x], total)
    return fma(rows[above, x], upper, rows[below, x] * lower)


@numba.njit(nogil=True, error_model="numpy")
def _down(rows: Any, place: Any, columns: Any, joint: Any) -> None:  # pragma: no cover - compiled
    """A row of the input."""
    for x in range(len(columns[0])):
        rows[_MADE, x] = _mean(rows, place, columns, joint, x)


@numba.njit(nogil=True, error_model="numpy")
def _compare(
    rows: Any, place: Any, columns: Any, joint: Any, levels: Any, painted: Any, y: Any
) -> None:  # pragma: no cover - compiled
    """Paint row ``y`` of a part."""
    for x in range(len(columns[0])):
        painted[y, x] = _mean(rows, place, columns, joint, x) > levels[0]


@numba.njit(nogil=True, error_model="numpy")
def _tally(
    rows: Any, place: Any, columns: Any, joint: Any, levels: Any, counts: Any, peaks: Any, y: Any
) -> None:  # pragma: no cover - compiled
    """Add to the counts of row ``y`` of a window what a part of it holds, and raise the peaks of the part."""
    level, raised, lowered = levels
    over, inner, outer = np.int32(0), np.int32(0), np.int32(0)
    for x in range(len(columns[0])):
        value = _mean(rows, place, columns, joint, x)
        over += np.int32(value > level)
        inner += np.int32(value > raised)
        outer += np.int32(value > lowered)
        peaks[x] = value if value > peaks[x] else peaks[x]
    counts[0, y] += over
    counts[1, y] += inner
    counts[2, y] += outer


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
