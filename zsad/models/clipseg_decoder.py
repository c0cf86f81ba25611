"""Steps of CLIPSeg's decoder with less work, for inference: the same functions of the same parameters, to rounding."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

_VALUES_ON_CPU = 2**19
"""Values that ``upscale`` holds at once for each of torch's threads: 2 MiB in float32. More were slower."""


def upscale(convolution: nn.Module, hidden: Tensor, output: Tensor | None = None) -> Tensor:
    """The transposed convolutions at the decoder's end. They have no overlap, as every kernel is as large as its stride.

    So each is one matrix product per position, channels last, and only the logits are brought into the order of pixels.

    Args:
        convolution: the decoder's ``transposed_convolution``.
        hidden: (B, 1 + h h, C), the class token first.
        output: (B, S, S) to write to, contiguous; None = a new one of the type of the products.

    Returns:
        (B, S, S) logits.
    """
    side = math.isqrt(hidden.shape[1] - 1)
    if not isinstance(convolution, nn.Sequential):
        logits = convolution(_grid(hidden, side).contiguous()).squeeze(1)
        return logits if output is None else output.copy_(logits)
    first, second = cast(nn.ConvTranspose2d, convolution[2]), cast(nn.ConvTranspose2d, convolution[4])
    values = side**2 * first.out_channels * first.stride[0] ** 2
    some = max(1, len(hidden))
    if hidden.device.type == "cpu":
        some = min(some, max(1, _VALUES_ON_CPU * torch.get_num_threads() // values))
    for start in range(0, len(hidden), some):
        own = slice(start, start + some)
        patches = _grid(hidden[own], side).contiguous(memory_format=torch.channels_last)
        split = convolution[0](patches).permute(0, 2, 3, 1).flatten(0, 2).relu_()
        split = _split(second, _split(first, split).relu_())
        if output is None:
            pixels = side * first.stride[0] * second.stride[0]
            output = torch.empty((len(hidden), pixels, pixels), dtype=split.dtype, device=split.device)
        _to_pixel_order(split, output[own], side, first.stride[0], second.stride[0])
    return cast(Tensor, output)


def _to_pixel_order(split: Tensor, output: Tensor, side: int, outer: int, inner: int) -> None:
    """Patches of an (h, h) grid, each split into k x k and then into d x d: B h h k k d d values -> (B, h k d, h k d).

    Args:
        side: h.
        outer, inner: k and d.
    """
    split = split.to(output.dtype)
    # Pixels that stay side by side are moved as one number, where there is one so long: in a fifth of the time.
    number = {4: torch.int32, 8: torch.int64, 16: torch.complex128}.get(inner * split.element_size())
    if number is not None:
        split, output = split.view(-1, inner).view(number), output.view(number)
    # (B, h, h, k, k, d, d): rows are (h, k, d), and so are columns.
    pixels = split.view(len(output), side, side, outer, outer, inner, -1).permute(0, 1, 3, 5, 2, 4, 6)
    output.view(pixels.shape).copy_(pixels)


def _grid(hidden: Tensor, side: int) -> Tensor:
    """(B, 1 + h h, C) -> (B, C, h, h), a view."""
    return hidden[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)


def _split(convolution: nn.ConvTranspose2d, positions: Tensor) -> Tensor:
    """A transposed convolution whose kernel is its stride k, channels last: (N, C) -> (N k k, C')."""
    weight = convolution.weight.permute(0, 2, 3, 1)
    bias = cast(Tensor, convolution.bias).repeat(weight.shape[1] * weight.shape[2])
    return torch.addmm(bias, positions, weight.flatten(1)).view(-1, weight.shape[-1])
