"""What is not a matrix product in SAM's image encoder, in half precision on a GPU: attention, and sums with layer norms.

The published encoder cuts the image into padded windows, copies them, and puts them together again; and it holds a
position term for every pair of tokens. Here a program finds the tokens of its window where they are. It takes some rows
of queries and goes through the keys row by row. Then a query's term for the key's row is one number, the same for all
keys of the row, and its terms for their columns are the same in every row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

Tiling = tuple[int, int, int]
"""Rows of queries that a program takes, its warps, and how many loads it is ahead (``num_stages``)."""

LONG_ROWS: Tiling = (1, 4, 3)
"""The tiling for rows of more than 32 tokens."""
SHORT_ROWS: Tiling = (4, 4, 1)


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
    rows, warps, stages = LONG_ROWS if block > 32 else SHORT_ROWS
    windows = triton.cdiv(height, window) * triton.cdiv(width, window)
    grid = (triton.cdiv(window, rows), heads, batch * windows)
    terms = torch.empty((*grid, window, rows * block), dtype=torch.float32, device=projected.device)
    with torch.cuda.device_of(projected):
        _attend[grid](
            projected,
            padding,
            row_terms.contiguous(),
            column_terms.contiguous(),
            terms,
            output,
            height,
            width,
            scale,
            WINDOW=window,
            BLOCK=block,
            ROWS=rows,
            SPAN=2 * block,
            HEADS=heads,
            CHANNELS=channels // 3 // heads,
            WIDE=max(16, triton.next_power_of_2(channels // 3 // heads)),
            PADDED=height % window > 0 or width % window > 0,
            num_warps=warps,
            num_stages=stages,
        )
    return output


def add_and_normalise(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float, half: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A sum and its layer norm, in one pass.

    Args:
        x: (..., C) float32, contiguous.
        added: (..., C) in half precision, contiguous; None = nothing.
        weight, bias, eps: of the layer norm, (C,).
        half: the type of the norm.

    Returns:
        The sum (..., C) float32, which is ``x`` itself where nothing is added, and its norm (..., C) of type ``half``.
    """
    channels = x.shape[-1]
    total = x if added is None else torch.empty_like(x)
    normalised = torch.empty_like(x, dtype=half)
    rows = x.numel() // channels
    with torch.cuda.device_of(x):
        _add_and_normalise[(rows,)](
            x, x if added is None else added, weight, bias, total, normalised, eps,
            C=channels, WIDE=triton.next_power_of_2(channels), ADDS=added is not None, num_warps=4,
        )  # fmt: skip
    return total, normalised


@triton.jit(do_not_specialize=["scale"])
def _attend(  # noqa: PLR0915 - one program
    projected: tl.tensor,
    padding: tl.tensor,
    row_terms: tl.tensor,
    column_terms: tl.tensor,
    terms: tl.tensor,
    output: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    scale: tl.tensor,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    PADDED: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """Program (r, h, w): rows r ROWS to (r + 1) ROWS of the queries of window w, in head h."""
    part, head = tl.program_id(0), tl.program_id(1)
    along = tl.cdiv(width, WINDOW)
    windows = tl.cdiv(height, WINDOW) * along
    image = (tl.program_id(2) // windows).to(tl.int64)
    top = tl.program_id(2) % windows // along * WINDOW
    left = tl.program_id(2) % along * WINDOW
    if top + part * ROWS < height:
        q, n, c = tl.arange(0, ROWS * BLOCK), tl.arange(0, BLOCK), tl.arange(0, WIDE)[None, :]
        row, column = part * ROWS + q // BLOCK, q % BLOCK
        exists = c < CHANNELS
        asks = (row < WINDOW) & (column < WINDOW) & (top + row < height) & (left + column < width)
        token: tl.constexpr = 3 * HEADS * CHANNELS
        first = projected + image * height * width * token + head * CHANNELS + c
        place = ((top + row) * width + left + column)[:, None]
        query = tl.load(first + place * token, mask=asks[:, None] & exists, other=0.0)
        # The position terms of a query for all distances along its row are moved to the keys at those distances. Those
        # for the distances down its column are stored, to be read row by row of keys. All logits are to base two.
        span = tl.arange(0, SPAN)
        said = _said(query, column_terms, span, c, WINDOW, CHANNELS)
        distance = column[:, None] - n[None, :] + WINDOW - 1
        across = tl.gather(said, tl.minimum(tl.maximum(distance, 0), SPAN - 1), 1)
        across = tl.where(n[None, :] < WINDOW, across, float("-inf"))
        said = _said(query, row_terms, span, c, WINDOW, CHANNELS)
        program = (tl.program_id(2).to(tl.int64) + tl.num_programs(2) * head) * tl.num_programs(0) + part
        own = terms + program * WINDOW * ROWS * BLOCK + q
        other = row[:, None] - span[None, :] + WINDOW - 1
        tl.store(own[:, None] + other * (ROWS * BLOCK), said, mask=(other >= 0) & (other < WINDOW))
        tl.debug_barrier()
        scale *= 1.4426950408889634
        if PADDED:
            beyond = padding + head * CHANNELS + c
            no_key = tl.load(beyond + HEADS * CHANNELS, mask=exists, other=0.0)
            no_value = tl.load(beyond + 2 * HEADS * CHANNELS, mask=exists, other=0.0)
        highest = tl.full((ROWS * BLOCK,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS * BLOCK,), tl.float32)
        mixed = tl.zeros((ROWS * BLOCK, WIDE), tl.float32)
        for line in range(WINDOW):
            inside = (n[:, None] < WINDOW) & exists
            y, x = top + line + tl.zeros_like(n)[:, None], left + n[:, None]
            if PADDED:
                inside = inside & (y < height) & (x < width)
            keys = first + (y * width + x) * token + HEADS * CHANNELS
            key = tl.load(keys, mask=inside, other=0.0)
            value = tl.load(keys + HEADS * CHANNELS, mask=inside, other=0.0)
            if PADDED:
                key, value = tl.where(inside, key, no_key), tl.where(inside, value, no_value)
            down = tl.load(own + line * (ROWS * BLOCK))
            logits = tl.dot(query, tl.trans(key)) * scale + across + down[:, None]
            higher = tl.maximum(highest, tl.max(logits, 1))
            weights = tl.exp2(logits - higher[:, None])
            shrink = tl.exp2(highest - higher)
            total = total * shrink + tl.sum(weights, 1)
            mixed = tl.dot(weights.to(value.dtype), value, mixed * shrink[:, None])
            highest = higher
        mixed = mixed / total[:, None]
        to = output + image * height * width * HEADS * CHANNELS + head * CHANNELS + c
        tl.store(to + place * (HEADS * CHANNELS), mixed.to(output.dtype.element_ty), mask=asks[:, None] & exists)


@triton.jit
def _said(
    query: tl.tensor, terms: tl.tensor, span: tl.tensor, c: tl.tensor, WINDOW: tl.constexpr, CHANNELS: tl.constexpr
) -> tl.tensor:  # pragma: no cover - compiled
    """The terms of queries (Q, WIDE) at every distance (Q, SPAN), times log2(e)."""
    known = (span[:, None] < 2 * WINDOW - 1) & (c < CHANNELS)
    spread = tl.load(terms + span[:, None] * CHANNELS + c, mask=known, other=0.0)
    return tl.dot(query, tl.trans(spread)) * 1.4426950408889634


@triton.jit(do_not_specialize=["eps"])
def _add_and_normalise(
    x: tl.tensor,
    added: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    total: tl.tensor,
    normalised: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    WIDE: tl.constexpr,
    ADDS: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    """Program i: row i."""
    c = tl.arange(0, WIDE)
    inside = c < C
    at = tl.program_id(0).to(tl.int64) * C + c
    value = tl.load(x + at, mask=inside, other=0.0)
    if ADDS:
        value += tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + at, value, mask=inside)
    apart = tl.where(inside, value - tl.sum(value, 0) / C, 0.0)
    spread = tl.rsqrt(tl.sum(apart * apart, 0) / C + eps)
    scaled = apart * spread * tl.load(weight + c, mask=inside, other=0.0) + tl.load(bias + c, mask=inside, other=0.0)
    tl.store(normalised + at, scaled.to(normalised.dtype.element_ty), mask=inside)
