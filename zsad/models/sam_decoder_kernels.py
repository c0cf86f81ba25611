"""The three steps of SAM's mask decoder that touch every pixel of every prompt, each as one pass on a GPU.

A prompt sees its own image of thousands of pixels, megabytes of it, and what is computed per pixel is little. Operation by
operation, the decoder writes and reads those megabytes some thirty times; here every step reads them once and writes
them at most once. Half precision only: products are of that type, sums and everything between are float32.

Prompts are P, their tokens T, padded to ``LENGTH``; the R = heads x LENGTH rows of a prompt are its tokens by head.
An image has N pixels of C channels, D is the inner width of an attention.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zsad.models.triton_support import has_large_shared_memory

LENGTH = 8
"""The most tokens of a prompt: four masks, their quality, and the point with its padding are seven."""

Tiling = tuple[int, int, int]
"""Pixels that a program holds at once, its warps, and how many loads it is ahead (``num_stages``)."""

READ: Tiling = (64, 4, 3)
WRITE: Tiling = (64, 4, 1)
UPSCALE: Tiling = (128, 8, 2)
SMALL: Tiling = (32, 4, 1)
"""The tiling of every step on a GPU whose multiprocessors have little shared memory."""


def read(queries: Tensor, folded: Tensor | None, keys: Tensor, pixels: Tensor, owner: Tensor) -> Tensor:
    """Attention of a prompt's tokens to its pixels: softmax(queries keys' + folded pixels') pixels.

    Args:
        queries: (P, R, D), each row 0 but for the columns of its head, scaled.
        folded: (P, R, C), the queries in terms of pixels; None in the first layer, where ``keys`` say all.
        keys: (I, N, D) of each image in the first layer, (1, N, D) of positions later.
        pixels: (I, N, C) images in the first layer, (P, N, C) of each prompt later.
        owner: (P,) int64, the image of each prompt.

    Returns:
        (P, R, C) of the dtype of ``pixels``.
    """
    prompts, rows, inner = queries.shape
    _, size, channels = pixels.shape
    output = torch.empty((prompts, rows, channels), dtype=pixels.dtype, device=pixels.device)
    block, warps, stages = READ if has_large_shared_memory(pixels) else SMALL
    with torch.cuda.device_of(pixels):
        _read[(prompts,)](
            queries, pixels if folded is None else folded, keys, pixels, owner, output, size,
            R=rows, D=inner, C=channels, BLOCK=block, FIRST=folded is None, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return output


def write(
    queries: Tensor, keys: Tensor, folded: Tensor | None, spread: Tensor, length: int, pixels: Tensor, owner: Tensor,
    weight: Tensor, bias: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """Attention of a prompt's pixels to its tokens, added to the pixels and normalised.

    Args:
        queries: (I, N, D) of each image in the first layer, (1, N, D) of positions later.
        keys: (P, R, D), each row 0 but for the columns of its head, scaled.
        folded: (P, R, C), the keys in terms of pixels; None in the first layer.
        spread: (P, R, C), what a pixel is given for its weight on a row.
        length: T, of the LENGTH rows of a head.
        pixels, owner: as in ``read``.
        weight, bias, eps: of the layer norm over channels, (C,).

    Returns:
        (P, N, C) of the dtype of ``pixels``.
    """
    prompts, rows, inner = keys.shape
    _, size, channels = pixels.shape
    block, warps, stages = WRITE if has_large_shared_memory(pixels) else SMALL
    output = torch.empty((prompts, size, channels), dtype=pixels.dtype, device=pixels.device)
    with torch.cuda.device_of(pixels):
        _write[(triton.cdiv(size, block), prompts)](
            queries, keys, pixels if folded is None else folded, spread, pixels, owner, weight, bias, output,
            size, eps, length,
            HEADS=rows // LENGTH, LENGTH=LENGTH, R=rows, D=inner, C=channels, BLOCK=block, FIRST=folded is None,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return output


def upscale(
    pixels: Tensor, first: Tensor, first_bias: Tensor, weight: Tensor, bias: Tensor, eps: float, second: Tensor,
    second_bias: Tensor, mix: Tensor, masks: int, grid: tuple[int, int],
) -> Tensor:  # fmt: skip
    """Two transposed convolutions of stride 2, with what is between them, and the product with each mask's weights.

    Args:
        pixels: (P, N, C) of a grid (h, w), row by row.
        first, first_bias: (C, 4 x C1) by the four places of the split, and (C1,).
        weight, bias, eps: of the layer norm over C1 channels.
        second, second_bias: (C1, 4 x C2) and (C2,).
        mix: (P, 4 x C2, 16): at place i, mask m in column 4 i + m, rows of other places 0.
        masks: M, at most 4.
        grid: (h, w).

    Returns:
        (P, M, 4 h, 4 w) float32 logits.
    """
    prompts, size, channels = pixels.shape
    height, width = grid
    block, warps, stages = UPSCALE if has_large_shared_memory(pixels) else SMALL
    output = torch.empty((prompts, masks, 4 * height, 4 * width), dtype=torch.float32, device=pixels.device)
    with torch.cuda.device_of(pixels):
        _upscale[(triton.cdiv(size, block), prompts)](
            pixels, first, first_bias, weight, bias, second, second_bias, mix, output, size, width, eps, masks,
            C=channels, C1=len(first_bias), C2=len(second_bias), BLOCK=block, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return output


@triton.jit
def _read(
    queries: tl.tensor,
    folded: tl.tensor,
    keys: tl.tensor,
    pixels: tl.tensor,
    owner: tl.tensor,
    output: tl.tensor,
    size: tl.tensor,
    R: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    prompt = tl.program_id(0).to(tl.int64)
    r, d, c, n = tl.arange(0, R), tl.arange(0, D), tl.arange(0, C), tl.arange(0, BLOCK)
    query = tl.load(queries + (prompt * R + r[:, None]) * D + d[None, :])
    if FIRST:
        image = tl.load(owner + prompt)
        keys += image * size * D
        pixels += image * size * C
    else:
        own = tl.load(folded + (prompt * R + r[:, None]) * C + c[None, :])
        pixels += prompt * size * C
    highest = tl.full((R,), float("-inf"), tl.float32)
    total = tl.zeros((R,), tl.float32)
    mixed = tl.zeros((R, C), tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + n < size
        key = tl.load(keys + (start + n)[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
        pixel = tl.load(pixels + (start + n)[:, None] * C + c[None, :], mask=inside[:, None], other=0.0)
        logits = tl.dot(query, tl.trans(key))
        if not FIRST:
            logits = tl.dot(own, tl.trans(pixel), logits)
        logits = tl.where(inside[None, :], logits * 1.4426950408889634, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(pixel.dtype), pixel, mixed * shrink[:, None])
        highest = higher
    mixed = mixed / total[:, None]
    tl.store(output + (prompt * R + r[:, None]) * C + c[None, :], mixed.to(output.dtype.element_ty))


@triton.jit
def _write(
    queries: tl.tensor,
    keys: tl.tensor,
    folded: tl.tensor,
    spread: tl.tensor,
    pixels: tl.tensor,
    owner: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    output: tl.tensor,
    size: tl.tensor,
    eps: tl.tensor,
    length: tl.tensor,
    HEADS: tl.constexpr,
    LENGTH: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    FIRST: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    prompt = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    r, d, c = tl.arange(0, R), tl.arange(0, D), tl.arange(0, C)
    inside = n[:, None] < size
    if FIRST:
        image = tl.load(owner + prompt)
        queries += image * size * D
        pixels += image * size * C
    else:
        pixels += prompt * size * C
    query = tl.load(queries + n[:, None] * D + d[None, :], mask=inside, other=0.0)
    key = tl.load(keys + (prompt * R + r[:, None]) * D + d[None, :])
    pixel = tl.load(pixels + n[:, None] * C + c[None, :], mask=inside, other=0.0)
    logits = tl.dot(query, tl.trans(key))
    if not FIRST:
        own = tl.load(folded + (prompt * R + r[:, None]) * C + c[None, :])
        logits = tl.dot(pixel, tl.trans(own), logits)
    by_head = tl.reshape(logits, (BLOCK, HEADS, LENGTH))
    token = tl.arange(0, LENGTH)[None, None, :]
    by_head = tl.where(token < length, by_head, float("-inf"))
    weights = tl.exp(by_head - tl.max(by_head, 2)[:, :, None])
    weights = weights / tl.sum(weights, 2)[:, :, None]
    given = tl.load(spread + (prompt * R + r[:, None]) * C + c[None, :])
    value = tl.dot(tl.reshape(weights, (BLOCK, R)).to(pixel.dtype), given) + pixel.to(tl.float32)
    value -= (tl.sum(value, 1) / C)[:, None]
    value *= tl.rsqrt(tl.sum(value * value, 1) / C + eps)[:, None]
    value = value * tl.load(weight + c)[None, :] + tl.load(bias + c)[None, :]
    output += prompt * size * C
    tl.store(output + n[:, None] * C + c[None, :], value.to(output.dtype.element_ty), mask=inside)


@triton.jit
def _gelu(x: tl.tensor) -> tl.tensor:  # pragma: no cover - compiled
    """0.5 x (1 + erf(x / sqrt 2)), erf by a polynomial: off by 5e-5 of the value at most, or 1e-4 where x is negative.

    Rounding to half precision is off by ten times as much, and there are more of these than of all else in the decoder.
    """
    near = tl.minimum(tl.maximum(x, -4.2), 4.2)
    z = near * near
    erf = 9.8479466e-11 * z - 9.5915738e-09
    erf = erf * z + 4.1450372e-07
    erf = erf * z - 1.0579284e-05
    erf = erf * z + 0.00017967356
    erf = erf * z - 0.0021729287
    erf = erf * z + 0.019481919
    erf = erf * z - 0.13244422
    erf = (erf * z + 0.7976692) * near
    return 0.5 * x * (1 + erf)


@triton.jit
def _upscale(
    pixels: tl.tensor,
    first: tl.tensor,
    first_bias: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    second: tl.tensor,
    second_bias: tl.tensor,
    mix: tl.tensor,
    output: tl.tensor,
    size: tl.tensor,
    width: tl.tensor,
    eps: tl.tensor,
    masks: tl.tensor,
    C: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # pragma: no cover - compiled
    prompt = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c, c1, c2, column = tl.arange(0, C), tl.arange(0, C1), tl.arange(0, 4 * C2), tl.arange(0, 16)
    inside = n[:, None] < size
    pixel = tl.load(pixels + (prompt * size + n[:, None]) * C + c[None, :], mask=inside, other=0.0)
    to_masks = tl.load(mix + (prompt * 4 * C2 + c2[:, None]) * 16 + column[None, :])
    to_second = tl.load(second + c1[:, None] * (4 * C2) + c2[None, :])
    of_second = tl.load(second_bias + c2 % C2)[None, :]
    of_first = tl.load(first_bias + c1)[None, :]
    scale, shift = tl.load(weight + c1)[None, :], tl.load(bias + c1)[None, :]
    y, x = n[:, None] // width, n[:, None] % width
    place, mask = column[None, :] // 4, column[None, :] % 4
    output += prompt * masks * 16 * size
    for split in range(4):
        to_first = tl.load(first + c[:, None] * (4 * C1) + split * C1 + c1[None, :])
        value = tl.dot(pixel, to_first) + of_first
        value -= (tl.sum(value, 1) / C1)[:, None]
        value *= tl.rsqrt(tl.sum(value * value, 1) / C1 + eps)[:, None]
        value = _gelu(value * scale + shift).to(pixel.dtype)
        value = _gelu(tl.dot(value, to_second) + of_second).to(pixel.dtype)
        logits = tl.dot(value, to_masks)
        row = 4 * y + 2 * (split // 2) + place // 2
        where = mask * (16 * size) + row * (4 * width) + 4 * x + 2 * (split % 2) + place % 2
        tl.store(output + where, logits, mask=inside & (mask < masks))
