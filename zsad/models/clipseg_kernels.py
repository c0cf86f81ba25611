"""Two steps of CLIPSeg's decoder, each as one pass on a GPU: what follows a layer's attention, and the upscaling.

A token has few channels, a hidden layer of thirty times as many values, and ends as 256 pixels. Operation by operation,
the decoder writes and reads all those several times; here they never leave the multiprocessor. Half precision only:
products are of that type, sums and everything between are float32.

Rows are the tokens of all pairs, of C channels; H is the width of the hidden layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from zsad.models.triton_support import has_large_shared_memory

Tiling = tuple[int, int, int, int]
"""Rows of a program, hidden values that it holds of each at once, its warps, and how many loads it is ahead (``num_stages``)."""

LARGE: Tiling = (128, 64, 8, 3)
SMALL: Tiling = (64, 32, 4, 3)
"""The tiling on a GPU whose multiprocessors have little shared memory."""

UPSCALE = (64, 4)
"""Rows of a program and its warps."""


class Weights(NamedTuple):
    """The weights of a layer, contiguous: matrices in half precision, the rest float32.

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
    block, chunk, warps, stages = LARGE if has_large_shared_memory(seen) else SMALL
    with torch.cuda.device_of(seen):
        _finish[(triton.cdiv(rows, block),)](
            seen, residual, seen if level is None else level, *weights[:10], output, rows, weights.eps1, weights.eps2,
            C=channels, H=len(weights.first), BLOCK=block, CHUNK=min(chunk, len(weights.first)), LAST=level is None,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return output


def upscale(
    patches: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor, output: Tensor
) -> None:
    """ReLU, and two transposed convolutions of kernel and stride K with a ReLU between.

    Args:
        patches: (B, h, h, C) half precision, contiguous.
        first, first_bias: (K, C, K x C1), by the rows and then by the columns of the split, and (K x C1,).
        second, second_bias: (K x C1, K x K x K) and (1,). A column of the first split gives to its own pixels only, which
            are ordered by row of the second split, column of the first, column of the second.
        output: (B, K K h, K K h) contiguous, for the logits.
    """
    batch, side, _, channels = patches.shape
    block, warps = UPSCALE
    split, _, inner = first.shape
    with torch.cuda.device_of(patches):
        _split[(triton.cdiv(batch * side * side, block),)](
            patches, first, first_bias, second, second_bias, output, batch * side * side, side,
            C=channels, INNER=inner, K=split, BLOCK=block, num_warps=warps, num_stages=1,
        )  # fmt: skip


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


@triton.jit
def _split(
    patches: tl.tensor,
    first: tl.tensor,
    first_bias: tl.tensor,
    second: tl.tensor,
    second_bias: tl.tensor,
    output: tl.tensor,
    rows: tl.tensor,
    side: tl.tensor,
    C: tl.constexpr,
    INNER: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    c, i, pixel = tl.arange(0, C), tl.arange(0, INNER), tl.arange(0, K * K * K)
    inside = row < rows
    patch = tl.load(patches + row * C + c[None, :], mask=inside, other=0.0)
    patch = tl.maximum(patch.to(tl.float32), 0.0).to(patch.dtype)
    to_pixels = tl.load(second + i[:, None] * (K * K * K) + pixel[None, :])
    bias = tl.load(first_bias + i)[None, :]
    last_bias = tl.load(second_bias)
    # Rows of the grid, all pairs one below the other.
    line, column = row // side, row % side
    width = K * K * side
    corner = output + line * (K * K) * width + column * (K * K)
    place = (pixel // (K * K) * width + pixel % (K * K))[None, :]
    for down in range(K):
        to_split = tl.load(first + (down * C + c[:, None]) * INNER + i[None, :])
        value = tl.maximum(tl.dot(patch, to_split) + bias, 0.0).to(patch.dtype)
        logits = tl.dot(value, to_pixels) + last_bias
        tl.store(corner + down * K * width + place, logits.to(output.dtype.element_ty), mask=inside)
