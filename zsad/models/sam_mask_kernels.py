"""The Triton kernels of ``sam_masks_gpu``: SAM's masks at native resolution, made where they are read and not kept.

Each native pixel is made of the 4 x 4 low-resolution logits that its two upsamplings read (``Axis.entries``), along the
columns first, as torch does, up to float rounding. Counts and boxes are integers, so they are the same at every call.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["level", "height", "width", "count"])
def extents(
    low: tl.tensor,
    chosen: tl.tensor,
    reach: tl.tensor,
    level: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """Program i: find the first and last row, then column, of mask ``chosen[i]`` over the level, as ``reach[:, i]``."""
    index = tl.program_id(0)
    mask = low + tl.load(chosen + index) * height * width
    top = tl.full((ROWS, COLUMNS), 0, tl.int32) + height
    left = tl.full((ROWS, COLUMNS), 0, tl.int32) + width
    bottom, right = tl.full((ROWS, COLUMNS), -1, tl.int32), tl.full((ROWS, COLUMNS), -1, tl.int32)
    for y in range(0, height, ROWS):
        row = (y + tl.arange(0, ROWS))[:, None]
        for x in range(0, width, COLUMNS):
            column = (x + tl.arange(0, COLUMNS))[None, :]
            inside = (row < height) & (column < width)
            over = inside & (tl.load(mask + row * width + column, mask=inside, other=0.0) > level)
            top = tl.where(over, tl.minimum(top, row), top)
            bottom = tl.where(over, tl.maximum(bottom, row), bottom)
            left = tl.where(over, tl.minimum(left, column), left)
            right = tl.where(over, tl.maximum(right, column), right)
    tl.store(reach + index, tl.min(top))
    tl.store(reach + count + index, tl.max(bottom))
    tl.store(reach + 2 * count + index, tl.min(left))
    tl.store(reach + 3 * count + index, tl.max(right))


@triton.jit(do_not_specialize=["level", "raised", "lowered", "low_height", "low_width", "height", "width", "count"])
def measure(
    low: tl.tensor,
    chosen: tl.tensor,
    reach: tl.tensor,
    row_spans: tl.tensor,
    column_spans: tl.tensor,
    row_entries: tl.tensor,
    row_weights: tl.tensor,
    column_entries: tl.tensor,
    column_weights: tl.tensor,
    found: tl.tensor,
    level: tl.tensor,
    raised: tl.tensor,
    lowered: tl.tensor,
    low_height: tl.tensor,
    low_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    count: tl.tensor,
    STRIPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """Program (i, s): add strip s of mask ``chosen[i]`` to the numbers ``found[:, i]``."""
    index = tl.program_id(0)
    mask = low + tl.load(chosen + index) * low_height * low_width
    # A mask that is nowhere over the level has an empty window: it starts at the end of the image and stops at 0.
    y0 = tl.load(row_spans + tl.load(reach + index))
    y1 = tl.load(row_spans + low_height + 1 + tl.load(reach + count + index) + 1)
    x0 = tl.load(column_spans + tl.load(reach + 2 * count + index))
    x1 = tl.load(column_spans + low_width + 1 + tl.load(reach + 3 * count + index) + 1)
    inner, outer = tl.full((ROWS, COLUMNS), 0, tl.int32), tl.full((ROWS, COLUMNS), 0, tl.int32)
    left, top = tl.full((ROWS, COLUMNS), 0, tl.int32), tl.full((ROWS, COLUMNS), 0, tl.int32)
    right, bottom = tl.full((ROWS, COLUMNS), 0, tl.int32), tl.full((ROWS, COLUMNS), 0, tl.int32)
    first = y0 + tl.program_id(1) * ROWS
    if first < y1:
        for x in range(x0, x1, COLUMNS):
            column = x + tl.arange(0, COLUMNS)
            across = _taps(column_entries, column_weights, column, column < x1, width)
            for y in range(first, y1, STRIPS * ROWS):
                row = y + tl.arange(0, ROWS)
                down = _taps(row_entries, row_weights, row, row < y1, height)
                logits = _logits(mask, low_width, down, across)
                inside = (row < y1)[:, None] & (column < x1)[None, :]
                inner += (inside & (logits > raised)).to(tl.int32)
                outer += (inside & (logits > lowered)).to(tl.int32)
                over = inside & (logits > level)
                left = tl.where(over, tl.maximum(left, (width - column)[None, :]), left)
                top = tl.where(over, tl.maximum(top, (height - row)[:, None]), top)
                right = tl.where(over, tl.maximum(right, (column + 1)[None, :]), right)
                bottom = tl.where(over, tl.maximum(bottom, (row + 1)[:, None]), bottom)
        tl.atomic_add(found + index, tl.sum(inner))
        tl.atomic_add(found + count + index, tl.sum(outer))
        tl.atomic_max(found + 2 * count + index, tl.max(left))
        tl.atomic_max(found + 3 * count + index, tl.max(top))
        tl.atomic_max(found + 4 * count + index, tl.max(right))
        tl.atomic_max(found + 5 * count + index, tl.max(bottom))


@triton.jit(do_not_specialize=["height", "width", "count"])
def conclude(
    found: tl.tensor,
    stability: tl.tensor,
    boxes: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    count: tl.tensor,
    MASKS: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """From what ``measure`` found, the scores and the boxes."""
    index = tl.program_id(0) * MASKS + tl.arange(0, MASKS)
    inside = index < count
    inner = tl.load(found + index, mask=inside, other=0).to(tl.float32)
    outer = tl.load(found + count + index, mask=inside, other=0).to(tl.float32)
    tl.store(stability + index, tl.div_rn(inner, outer), mask=inside)
    right = tl.load(found + 4 * count + index, mask=inside, other=0)
    bottom = tl.load(found + 5 * count + index, mask=inside, other=0)
    left = tl.where(right > 0, width - tl.load(found + 2 * count + index, mask=inside, other=0), 0)
    top = tl.where(right > 0, height - tl.load(found + 3 * count + index, mask=inside, other=0), 0)
    tl.store(boxes + 4 * index, left.to(tl.int64), mask=inside)
    tl.store(boxes + 4 * index + 1, top.to(tl.int64), mask=inside)
    tl.store(boxes + 4 * index + 2, right.to(tl.int64), mask=inside)
    tl.store(boxes + 4 * index + 3, bottom.to(tl.int64), mask=inside)


@triton.jit(do_not_specialize=["level", "low_height", "low_width", "height", "width", "count"])
def cover(
    low: tl.tensor,
    boxes: tl.tensor,
    row_entries: tl.tensor,
    row_weights: tl.tensor,
    column_entries: tl.tensor,
    column_weights: tl.tensor,
    within: tl.tensor,
    counts: tl.tensor,
    level: tl.tensor,
    low_height: tl.tensor,
    low_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    count: tl.tensor,
    STRIPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """Program (i, s): add strip s of mask i to the numbers ``counts[:, i]``."""
    index = tl.program_id(0)
    mask = low + index.to(tl.int64) * low_height * low_width
    x0, y0 = tl.load(boxes + 4 * index).to(tl.int32), tl.load(boxes + 4 * index + 1).to(tl.int32)
    x1, y1 = tl.load(boxes + 4 * index + 2).to(tl.int32), tl.load(boxes + 4 * index + 3).to(tl.int32)
    area, common = tl.full((ROWS, COLUMNS), 0, tl.int32), tl.full((ROWS, COLUMNS), 0, tl.int32)
    first = y0 + tl.program_id(1) * ROWS
    if first < y1:
        for x in range(x0, x1, COLUMNS):
            column = x + tl.arange(0, COLUMNS)
            across = _taps(column_entries, column_weights, column, column < x1, width)
            for y in range(first, y1, STRIPS * ROWS):
                row = y + tl.arange(0, ROWS)
                down = _taps(row_entries, row_weights, row, row < y1, height)
                inside = (row < y1)[:, None] & (column < x1)[None, :]
                over = inside & (_logits(mask, low_width, down, across) > level)
                place = within + row[:, None] * width + column[None, :]
                area += over.to(tl.int32)
                common += (over & (tl.load(place, mask=inside, other=0) != 0)).to(tl.int32)
        tl.atomic_add(counts + index, tl.sum(area))
        tl.atomic_add(counts + count + index, tl.sum(common))


@triton.jit(do_not_specialize=["level", "low_height", "low_width", "height", "width"])
def paint(
    low: tl.tensor,
    places: tl.tensor,
    row_entries: tl.tensor,
    row_weights: tl.tensor,
    column_entries: tl.tensor,
    column_weights: tl.tensor,
    painted: tl.tensor,
    level: tl.tensor,
    low_height: tl.tensor,
    low_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    STRIPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """Program (i, s): paint strip s of what ``places[i]`` names."""
    places += 6 * tl.program_id(0)
    mask = low + tl.load(places + 5) * low_height * low_width
    x0, y0 = tl.load(places).to(tl.int32), tl.load(places + 1).to(tl.int32)
    x1, y1 = tl.load(places + 2).to(tl.int32), tl.load(places + 3).to(tl.int32)
    pixels = painted + tl.load(places + 4)
    for x in range(x0, x1, COLUMNS):
        column = x + tl.arange(0, COLUMNS)
        across = _taps(column_entries, column_weights, column, column < x1, width)
        for y in range(y0 + tl.program_id(1) * ROWS, y1, STRIPS * ROWS):
            row = y + tl.arange(0, ROWS)
            down = _taps(row_entries, row_weights, row, row < y1, height)
            over = _logits(mask, low_width, down, across) > level
            inside = (row < y1)[:, None] & (column < x1)[None, :]
            tl.store(pixels + (row - y0)[:, None] * (x1 - x0) + (column - x0)[None, :], over.to(tl.uint8), mask=inside)


@triton.jit
def _taps(
    entries: tl.tensor, weights: tl.tensor, at: tl.tensor, inside: tl.tensor, size: tl.tensor
) -> tl.tensor:  # pragma: no cover - compiled
    """Of native pixels ``at`` along an axis of ``size``: the four entries they read, and their six weights."""
    return (
        tl.load(entries + at, mask=inside, other=0),
        tl.load(entries + size + at, mask=inside, other=0),
        tl.load(entries + 2 * size + at, mask=inside, other=0),
        tl.load(entries + 3 * size + at, mask=inside, other=0),
        tl.load(weights + at, mask=inside, other=0.0),
        tl.load(weights + size + at, mask=inside, other=0.0),
        tl.load(weights + 2 * size + at, mask=inside, other=0.0),
        tl.load(weights + 3 * size + at, mask=inside, other=0.0),
        tl.load(weights + 4 * size + at, mask=inside, other=0.0),
        tl.load(weights + 5 * size + at, mask=inside, other=0.0),
    )


@triton.jit
def _logits(
    mask: tl.tensor, low_width: tl.tensor, down: tl.tensor, across: tl.tensor
) -> tl.tensor:  # pragma: no cover - compiled
    """The upsampled logits of the pixels whose rows have the taps ``down`` and columns the taps ``across``."""
    row0, row1, row2, row3, upper0, lower0, upper1, lower1, upper, lower = down
    left0, right0, left1, right1, before0, after0, before1, after1, before, after = across
    above = _between(
        _input(mask, low_width, row0, row1, upper0, lower0, left0, right0, before0, after0),
        _input(mask, low_width, row0, row1, upper0, lower0, left1, right1, before1, after1),
        before,
        after,
    )
    below = _between(
        _input(mask, low_width, row2, row3, upper1, lower1, left0, right0, before0, after0),
        _input(mask, low_width, row2, row3, upper1, lower1, left1, right1, before1, after1),
        before,
        after,
    )
    return below * lower[:, None] + above * upper[:, None]


@triton.jit
def _input(
    mask: tl.tensor,
    low_width: tl.tensor,
    top: tl.tensor,
    bottom: tl.tensor,
    upper: tl.tensor,
    lower: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    before: tl.tensor,
    after: tl.tensor,
) -> tl.tensor:  # pragma: no cover - compiled
    """Pixels of the input, made of two rows and two columns of low resolution each."""
    top_row, bottom_row = mask + top[:, None] * low_width, mask + bottom[:, None] * low_width
    above = _between(tl.load(top_row + left[None, :]), tl.load(top_row + right[None, :]), before, after)
    below = _between(tl.load(bottom_row + left[None, :]), tl.load(bottom_row + right[None, :]), before, after)
    return below * lower[:, None] + above * upper[:, None]


@triton.jit
def _between(
    left: tl.tensor, right: tl.tensor, before: tl.tensor, after: tl.tensor
) -> tl.tensor:  # pragma: no cover - compiled
    return right * after[None, :] + left * before[None, :]
