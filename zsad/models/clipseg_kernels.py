"""What follows the attention in a layer of CLIPSeg's decoder, as one pass on a GPU.

A token has few channels and a wide hidden layer, thirty times the token. Operation by operation, the layer writes and
reads that several times; here it never leaves the multiprocessor. Half precision only: products are of that type, sums
and everything between are float32.

Rows are the tokens of all pairs, of C channels; H is the width of the hidden layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

Tiling = tuple[int, int, int, int]
"""Rows of a program, hidden values that it holds of each at once, its warps, and how many loads it is ahead (``num_stages``)."""

LARGE: Tiling = (128, 64, 4, 3)
SMALL: Tiling = (32, 32, 4, 2)
"""On a GPU whose multiprocessors have less than ``_LARGE_MEMORY`` bytes of shared memory."""

_LARGE_MEMORY = 160_000


class Weights(NamedTuple):
    """Of a layer, contiguous: matrices in half precision, the rest float32.

    Attributes:
        mix, mix_bias: of the attention's output, (C, C) from row to column, and (C,).
        norm1, norm1_bias: of the first layer norm, (C,).
        first, first_bias: of the hidden layer, (H, C) and (H,).
        second, second_bias: from the hidden layer, (H, C) and (C,).
        norm2, norm2_bias: of the second layer norm, (C,).
        eps1, eps2: of the layer norms.
    """

    mix: Tensor
    mix_bias: Tensor
    norm1: Tensor
    norm1_bias: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    eps1: float
    eps2: float


def finish(seen: Tensor, residual: Tensor, weights: Weights, level: Tensor | None = None) -> Tensor:
    """The rest of a layer after its attention: projection, layer norm, MLP, layer norm, each with its residual.

    Args:
        seen: (R, C) half precision, what the heads of a row have seen, contiguous.
        residual: (R, C), what went into the attention.
        weights: of the layer.
        level: (R, C), what is added to the layer's output; None = nothing.

    Returns:
        (R, C) of the type of ``seen``.
    """
    rows, channels = seen.shape
    output = torch.empty_like(seen)
    block, chunk, warps, stages = _tiling(seen)
    with torch.cuda.device_of(seen):
        _finish[(triton.cdiv(rows, block),)](
            seen, residual, seen if level is None else level, *weights[:10], output, rows, weights.eps1, weights.eps2,
            C=channels, H=len(weights.first), BLOCK=block, CHUNK=min(chunk, len(weights.first)), LAST=level is None,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return output


def _tiling(rows: Tensor) -> Tiling:
    if not rows.is_cuda:
        return SMALL
    properties: Any = torch.cuda.get_device_properties(rows.device)
    return LARGE if properties.shared_memory_per_block_optin >= _LARGE_MEMORY else SMALL


@triton.jit
def _normalise(
    value: tl.tensor, weight: tl.tensor, bias: tl.tensor, eps: tl.tensor, C: tl.constexpr
) -> tl.tensor:  # pragma: no cover - compiled
    """Layer norm of (BLOCK, C)."""
    c = tl.arange(0, C)
    value -= (tl.sum(value, 1) / C)[:, None]
    value *= tl.rsqrt(tl.sum(value * value, 1) / C + eps)[:, None]
    return value * tl.load(weight + c)[None, :] + tl.load(bias + c)[None, :]


@triton.jit(do_not_specialize=["eps1", "eps2"])
def _finish(
    seen: tl.tensor,
    residual: tl.tensor,
    level: tl.tensor,
    mix: tl.tensor,
    mix_bias: tl.tensor,
    norm1: tl.tensor,
    norm1_bias: tl.tensor,
    first: tl.tensor,
    first_bias: tl.tensor,
    second: tl.tensor,
    second_bias: tl.tensor,
    norm2: tl.tensor,
    norm2_bias: tl.tensor,
    output: tl.tensor,
    rows: tl.tensor,
    eps1: tl.tensor,
    eps2: tl.tensor,
    C: tl.constexpr,
    H: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    LAST: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    c, h = tl.arange(0, C), tl.arange(0, CHUNK)
    inside = row < rows
    place = row * C + c[None, :]
    value = tl.load(seen + place, mask=inside, other=0.0)
    value = tl.dot(value, tl.load(mix + c[:, None] * C + c[None, :])) + tl.load(mix_bias + c)[None, :]
    value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    value = _normalise(value, norm1, norm1_bias, eps1, C)
    token = value.to(output.dtype.element_ty)
    value += tl.load(second_bias + c)[None, :]
    for start in range(0, H, CHUNK):
        to_hidden = tl.load(first + (start + h)[:, None] * C + c[None, :])
        hidden = tl.dot(token, tl.trans(to_hidden)) + tl.load(first_bias + start + h)[None, :]
        hidden = tl.maximum(hidden, 0.0).to(token.dtype)
        value = tl.dot(hidden, tl.load(second + (start + h)[:, None] * C + c[None, :]), value)
    value = _normalise(value, norm2, norm2_bias, eps2, C)
    if not LAST:
        value += tl.load(level + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + place, value.to(output.dtype.element_ty), mask=inside)
