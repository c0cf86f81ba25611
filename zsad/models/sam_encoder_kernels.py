"""Attention of SAM's image encoder in half precision on a GPU: windows and position terms inside one kernel.

The published encoder cuts the image into padded windows, copies them, and puts them together again; and it holds a
position term for every pair of tokens. Here a program finds the tokens of its window where they are. It takes a row of
queries and goes through the keys row by row. Then the row's term, the same for all its keys, is part of the key, and the
column's is the same in every row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WARPS_OF_LONG_ROWS, _WARPS_OF_SHORT_ROWS = 4, 1
"""Warps of a program, for rows of more than 32 tokens and for others."""


def attend(
    projected: Tensor, padding: Tensor, row_terms: Tensor, column_terms: Tensor, window: int, heads: int, scale: float
) -> Tensor:
    """Attention of every token to all tokens of its window.

    Args:
        projected: (B, H, W, 3 x heads x E), contiguous: queries, keys and values, in half precision.
        padding: (3 x heads x E), the same of a token beyond the image, of which windows at its edge have some.
        row_terms, column_terms: (2 window - 1, E), from ``window`` - 1 rows or columns before to as many behind.
        window: side of the windows in tokens.
        heads: number of heads.
        scale: of the product of query and key, without the terms.

    Returns:
        (B, H, W, heads x E).
    """
    batch, height, width, channels = projected.shape
    output = torch.empty((batch, height, width, channels // 3), dtype=projected.dtype, device=projected.device)
    block = max(16, triton.next_power_of_2(window))
    windows = triton.cdiv(height, window) * triton.cdiv(width, window)
    with torch.cuda.device_of(projected):
        _attend[(window, heads, batch * windows)](
            projected,
            padding,
            row_terms.contiguous(),
            column_terms.contiguous(),
            output,
            height,
            width,
            scale,
            WINDOW=window,
            BLOCK=block,
            SPAN=2 * block,
            HEADS=heads,
            CHANNELS=channels // 3 // heads,
            WIDE=max(16, triton.next_power_of_2(channels // 3 // heads)),
            num_warps=_WARPS_OF_LONG_ROWS if block > 32 else _WARPS_OF_SHORT_ROWS,
        )
    return output


@triton.jit(do_not_specialize=["scale"])
def _attend(
    projected: tl.tensor,
    padding: tl.tensor,
    row_terms: tl.tensor,
    column_terms: tl.tensor,
    output: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    scale: tl.tensor,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """Program (r, h, w): row r of the queries of window w, in head h."""
    row, head = tl.program_id(0), tl.program_id(1)
    down, along = tl.cdiv(height, WINDOW), tl.cdiv(width, WINDOW)
    image = (tl.program_id(2) // (down * along)).to(tl.int64)
    top = tl.program_id(2) % (down * along) // along * WINDOW
    left = tl.program_id(2) % along * WINDOW
    if top + row < height:
        n, c = tl.arange(0, BLOCK), tl.arange(0, WIDE)[None, :]
        token = 3 * HEADS * CHANNELS
        first = projected + image * height * width * token + head * CHANNELS + c
        column = left + n[:, None]
        exists = c < CHANNELS
        within = (n[:, None] < WINDOW) & (column < width) & exists
        query = tl.load(first + ((top + row) * width + column) * token, mask=within, other=0.0)
        beyond = padding + head * CHANNELS + c
        no_key = tl.load(beyond + HEADS * CHANNELS, mask=exists, other=0.0).to(tl.float32)
        no_value = tl.load(beyond + 2 * HEADS * CHANNELS, mask=exists, other=0.0)
        # What a query has to say about every distance along the row, moved so that it meets the keys of those distances.
        span = tl.arange(0, SPAN)
        known = (span[:, None] < 2 * WINDOW - 1) & exists
        spread = tl.load(column_terms + span[:, None] * CHANNELS + c, mask=known, other=0.0)
        said = tl.dot(query, tl.trans(spread))
        distance = n[:, None] - n[None, :] + WINDOW - 1
        across = tl.gather(said, tl.minimum(tl.maximum(distance, 0), SPAN - 1), 1)
        across = tl.where(n[None, :] < WINDOW, across, float("-inf"))
        highest = tl.full((BLOCK,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        mixed = tl.zeros((BLOCK, WIDE), tl.float32)
        for other in range(WINDOW):
            line = top + other + tl.zeros_like(column)
            inside = within & (line < height)
            place = first + (line * width + column) * token
            key = tl.load(place + HEADS * CHANNELS, mask=inside, other=0.0).to(tl.float32)
            value = tl.load(place + 2 * HEADS * CHANNELS, mask=inside, other=0.0)
            key = tl.where(inside, key, no_key) * scale
            value = tl.where(inside, value, no_value)
            term = tl.load(row_terms + (row - other + WINDOW - 1) * CHANNELS + c, mask=exists, other=0.0)
            key += term.to(tl.float32)
            logits = (tl.dot(query, tl.trans(key.to(query.dtype))) + across) * 1.4426950408889634
            higher = tl.maximum(highest, tl.max(logits, 1))
            weights = tl.exp2(logits - higher[:, None])
            shrink = tl.exp2(highest - higher)
            total = total * shrink + tl.sum(weights, 1)
            mixed = tl.dot(weights.to(value.dtype), value, mixed * shrink[:, None])
            highest = higher
        mixed = mixed / total[:, None]
        to = output + image * height * width * HEADS * CHANNELS + head * CHANNELS + c
        place = to + ((top + row) * width + column) * (HEADS * CHANNELS)
        tl.store(place, mixed.to(output.dtype.element_ty), mask=within)
