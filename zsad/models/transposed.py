"""Transposed convolutions whose kernel is as large as their stride, so without overlap, as matrix products channels last."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


def split(convolution: nn.ConvTranspose2d, positions: Tensor) -> Tensor:
    """Every position becomes k x k: (..., C) -> (positions x k x k, C'), k the stride."""
    weight = convolution.weight.permute(0, 2, 3, 1)
    bias = cast(Tensor, convolution.bias).repeat(weight.shape[1] * weight.shape[2])
    return torch.addmm(bias, positions.flatten(0, -2), weight.flatten(1)).view(-1, weight.shape[-1])


def to_pixel_order(values: Tensor, output: Tensor, grid: tuple[int, int], outer: int, inner: int) -> None:
    """Positions of a grid, each split into k x k and then into d x d, as pixels.

    Args:
        values: B h w k k d d of them, one per pixel, contiguous.
        output: (B, h k d, w k d) to write to, contiguous.
        grid: h and w.
        outer, inner: k and d.
    """
    values = values.to(output.dtype)
    # Pixels that stay side by side are copied as one number, if a type has their length: it takes a fraction of the time.
    number = {4: torch.int32, 8: torch.int64, 16: torch.complex128}.get(inner * values.element_size())
    if number is not None:
        values, output = values.reshape(-1, inner).view(number), output.view(number)
    # (B, h, w, k, k, d, d): rows are (h, k, d), columns (w, k, d).
    pixels = values.reshape(len(output), *grid, outer, outer, inner, -1).permute(0, 1, 3, 5, 2, 4, 6)
    output.view(pixels.shape).copy_(pixels)
