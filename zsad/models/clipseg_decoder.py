"""Steps of CLIPSeg's decoder with less work, for inference: the same functions of the same parameters, to rounding.

``upscale`` is for all devices, ``run_layer`` makes a difference on a CPU. In half precision on a GPU there is
``FusedDecoder``, most of it in kernels of our own (``clipseg_kernels``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.models.transposed import split, to_pixel_order

if TYPE_CHECKING:
    from zsad.models.clipseg_kernels import Weights

_VALUES_ON_CPU = 2**19
"""Values of a wide array held at once for each of torch's threads: 2 MiB in float32. More were slower."""


class FusedDecoder:
    """The decoder after its modulation, in half precision on a GPU, with copies of its weights as the kernels take them.

    Args:
        decoder: of transformers, on its device.
        dtype: half precision.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._layers = [_FusedLayer(layer, dtype) for layer in decoder.layers]
        convolution = decoder.transposed_convolution
        self._convolution: nn.Module = convolution[0]
        self._upscaling = _upscaling_weights(convolution[2], convolution[4], dtype)

    @staticmethod
    def suits(config: Any) -> bool:
        """Whether the sizes of a CLIPSeg configuration are such as the kernels take."""
        return (
            config.reduce_dim in (16, 32, 64)
            and config.decoder_intermediate_size % 64 == 0
            and config.use_complex_transposed_convolution
            and config.vision_config.patch_size == 16
        )

    @torch.no_grad()
    def layers(self, hidden: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """All layers.

        Args:
            hidden: (B, tokens, C), what the first layer reads.
            levels: (B, tokens, C) each, what the later layers read besides the layer before.

        Returns:
            (B, tokens, C) of type ``dtype``.
        """
        hidden = hidden.to(self.dtype).contiguous()
        for layer, level in zip(self._layers, (*levels, None), strict=True):
            hidden = layer(hidden, None if level is None else level.to(self.dtype).contiguous())
        return hidden

    @torch.no_grad()
    def upscale(self, hidden: Tensor, output: Tensor | None = None) -> Tensor:
        """``upscale`` of what the layers say, (B, 1 + h h, C) -> (B, S, S); into ``output`` if given."""
        from zsad.models import clipseg_kernels

        side = math.isqrt(hidden.shape[1] - 1)
        patches = self._convolution(_grid(hidden, side).contiguous(memory_format=torch.channels_last))
        if output is None:
            output = torch.empty((len(hidden), 16 * side, 16 * side), device=hidden.device)
        clipseg_kernels.upscale(patches.permute(0, 2, 3, 1).contiguous(), *self._upscaling, output)
        return output


class _FusedLayer:
    """A layer of transformers' decoder, which reads and writes half precision."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        from zsad.models.clipseg_kernels import Weights

        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads = attention.num_heads
        self.project = torch.cat([part.weight for part in parts]).detach().to(dtype)
        self.project_bias = torch.cat([part.bias for part in parts]).detach().to(dtype)

        def exact(parameter: Tensor) -> Tensor:
            return parameter.detach().float().contiguous()

        self.weights: Weights = Weights(
            attention.out_proj.weight.detach().T.to(dtype).contiguous(),
            exact(attention.out_proj.bias),
            exact(layer.layer_norm1.weight),
            exact(layer.layer_norm1.bias),
            layer.mlp.fc1.weight.detach().to(dtype).contiguous(),
            exact(layer.mlp.fc1.bias),
            layer.mlp.fc2.weight.detach().T.to(dtype).contiguous(),
            exact(layer.mlp.fc2.bias),
            exact(layer.layer_norm2.weight),
            exact(layer.layer_norm2.bias),
            layer.layer_norm1.eps,
            layer.layer_norm2.eps,
        )

    def __call__(self, hidden: Tensor, level: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, T, C), ``level`` (B, T, C) added to what the layer says."""
        from zsad.models.clipseg_kernels import finish

        projected = F.linear(hidden, self.project, self.project_bias)
        projected = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(projected[0], projected[1], projected[2]).transpose(1, 2)
        rows = seen.reshape(-1, hidden.shape[2]).contiguous()
        added = None if level is None else level.flatten(0, 1)
        return finish(rows, hidden.flatten(0, 1), self.weights, added).view(hidden.shape)


def _upscaling_weights(
    first: nn.ConvTranspose2d, second: nn.ConvTranspose2d, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of two transposed convolutions of kernel and stride K, as ``clipseg_kernels.upscale`` takes them."""
    stride = first.stride[0]
    # (C, C1, K, K) -> (K, C, K, C1)
    split = first.weight.detach().permute(2, 0, 3, 1).flatten(2).to(dtype).contiguous()
    split_bias = cast(Tensor, first.bias).detach().float().repeat(stride)
    # (C1, K, K) -> (column of the first split, C1, row of the second, column of the first, column of the second)
    own = torch.eye(stride, device=second.weight.device)[:, None, None, :, None]
    pixels = own * second.weight.detach().float()[None, :, 0, :, None, :]
    pixels = pixels.flatten(2).flatten(0, 1).to(dtype).contiguous()
    return split, split_bias, pixels, cast(Tensor, second.bias).detach().float()


def run_layer(layer: Any, hidden: Tensor) -> Tensor:
    """A layer of transformers' decoder, (B, T, C) -> (B, T, C), without gradients.

    On a CPU some tokens at a time pass through the MLP, so that its hidden layer stays in the caches.
    """
    if hidden.device.type != "cpu":
        return cast(Tensor, layer(hidden, None))
    seen, _ = layer.self_attn(hidden, None)
    hidden = layer.layer_norm1(hidden + seen)
    some = max(1, _VALUES_ON_CPU * torch.get_num_threads() // layer.mlp.fc1.out_features)
    for tokens in hidden.view(-1, hidden.shape[-1]).split(some):
        tokens.add_(layer.mlp.fc2(layer.mlp.fc1(tokens).relu_()))
    return cast(Tensor, layer.layer_norm2(hidden))


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
    held = side**2 * first.out_channels * first.stride[0] ** 2
    some = max(1, len(hidden))
    if hidden.device.type == "cpu":
        some = min(some, max(1, _VALUES_ON_CPU * torch.get_num_threads() // held))
    for start in range(0, len(hidden), some):
        own = slice(start, start + some)
        patches = _grid(hidden[own], side).contiguous(memory_format=torch.channels_last)
        values = convolution[0](patches).permute(0, 2, 3, 1).flatten(0, 2).relu_()
        values = split(second, split(first, values).relu_())
        if output is None:
            pixels = side * first.stride[0] * second.stride[0]
            output = torch.empty((len(hidden), pixels, pixels), dtype=values.dtype, device=values.device)
        to_pixel_order(values, output[own], (side, side), first.stride[0], second.stride[0])
    return cast(Tensor, output)


def _grid(hidden: Tensor, side: int) -> Tensor:
    """(B, 1 + h h, C) -> (B, C, h, h), a view."""
    return hidden[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
