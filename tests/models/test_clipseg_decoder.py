"""The steps of CLIPSeg's decoder against the stock layers."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from zsad.models import clipseg_decoder, clipseg_network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def complex_convolution(channels: int, outer: int, inner: int) -> nn.Sequential:
    """As in transformers, where both strides are a quarter of the patch size."""
    convolution = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, channels // 2, outer, outer),
        nn.ReLU(),
        nn.ConvTranspose2d(channels // 2, 1, inner, inner),
    )
    for parameter in convolution.parameters():
        nn.init.normal_(parameter, std=0.3)
    return convolution


def stock(convolution: nn.Module, hidden: torch.Tensor, side: int) -> torch.Tensor:
    patches = hidden[:, 1:].transpose(1, 2).reshape(len(hidden), -1, side, side)
    return convolution(patches).squeeze(1)


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(one, other, atol=tolerance * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize(("outer", "inner"), [(4, 4), (2, 2), (3, 3), (1, 4), (2, 8)])
@pytest.mark.parametrize("pairs", [1, 3])
@torch.no_grad()
def test_upscaling_equals_the_transposed_convolutions(outer: int, inner: int, pairs: int) -> None:
    torch.manual_seed(outer + pairs)
    convolution = complex_convolution(6, outer, inner)
    hidden = torch.randn(pairs, 26, 6)
    before, expected = hidden.clone(), stock(convolution, hidden, 5)
    assert expected.std() > 0.1
    close(clipseg_decoder.upscale(convolution, hidden), expected)
    # One pair at a time, into a part of something larger.
    whole = torch.zeros(pairs + 2, *expected.shape[1:])
    with patch.object(clipseg_decoder, "_VALUES_ON_CPU", 1):
        clipseg_decoder.upscale(convolution, hidden, whole[1:-1])
    close(whole[1:-1], expected)
    assert not whole[0].any() and not whole[-1].any()
    assert torch.equal(hidden, before)


@torch.no_grad()
def test_upscaling_in_half_precision() -> None:
    convolution, hidden = complex_convolution(16, 4, 4), torch.randn(2, 10, 16)
    expected = stock(convolution, hidden, 3)
    output = torch.empty_like(expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert clipseg_decoder.upscale(convolution, hidden).dtype == torch.bfloat16
        clipseg_decoder.upscale(convolution, hidden, output)
    close(output, expected, 0.03)
    assert not torch.equal(output, expected)


@torch.no_grad()
def test_the_published_simple_variant() -> None:
    convolution, hidden = nn.ConvTranspose2d(6, 1, 16, 16), torch.randn(2, 10, 6)
    expected, output = stock(convolution, hidden, 3), torch.empty(2, 48, 48)
    close(clipseg_decoder.upscale(convolution, hidden), expected)
    assert clipseg_decoder.upscale(convolution, hidden, output) is output
    close(output, expected)


def test_decoding_with_gradients_says_the_same() -> None:
    module = clipseg_network.build("mini-clipseg").eval()
    reduced = [torch.randn(2, 257, 48) for _ in range(2)]
    scale, shift = torch.randn(2, 2, 48)
    learning = clipseg_network.decode(module, reduced, scale, shift)
    assert learning.requires_grad
    with torch.no_grad():
        close(clipseg_network.decode(module, reduced, scale, shift), learning.detach())


def small_module(channels: int, hidden: int, heads: int) -> CLIPSegForImageSegmentation:
    """Three layers of parameters that all matter, 3 x 3 patches."""
    config = clipseg_network.model_config("mini-clipseg").to_dict()
    config |= {"reduce_dim": channels, "decoder_intermediate_size": hidden, "decoder_num_attention_heads": heads}
    config["vision_config"] |= {"image_size": 48}
    config |= {"extract_layers": [0, 1, 2]}
    torch.manual_seed(channels)
    module = CLIPSegForImageSegmentation(CLIPSegConfig(**config)).eval().requires_grad_(False)
    for name, parameter in module.decoder.named_parameters():
        parameter.normal_(std=1 if "norm" in name or "bias" in name else parameter[0].numel() ** -0.5)
    for layer in module.decoder.layers:
        layer.layer_norm1.eps, layer.layer_norm2.eps = 0.5, 0.2
    return module


def pairs(module: CLIPSegForImageSegmentation, count: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Reductions, scale and shift of some pairs, values of half precision."""
    channels = module.config.reduce_dim
    values = [torch.randn(count, 10, channels) for _ in range(3)] + [torch.randn(count, channels) for _ in range(2)]
    *reduced, scale, shift = [value.half().float() for value in values]
    return reduced, scale, shift


@pytest.mark.parametrize("values", [1, 64 * 7, 2**19])
@torch.no_grad()
def test_layers_equal_the_stock_ones(values: int) -> None:
    module = small_module(16, 64, 2)
    layer, hidden = module.decoder.layers[0], torch.randn(3, 10, 16)
    before = hidden.clone()
    with patch.object(clipseg_decoder, "_VALUES_ON_CPU", values):
        close(clipseg_decoder.run_layer(layer, hidden), layer(hidden, None))
    assert torch.equal(hidden, before)


@pytest.mark.parametrize(("channels", "hidden", "heads"), [(16, 64, 2), (32, 128, 4), (64, 192, 4)])
@torch.no_grad()
def test_the_fused_decoder_equals_the_stock_one(channels: int, hidden: int, heads: int) -> None:
    pytest.importorskip("triton")
    from zsad.models.clipseg_kernels import SMALL

    module = small_module(channels, hidden, heads)
    reduced, scale, shift = pairs(module, 8)
    # The last program has rows to leave alone.
    assert (8 * 10) % SMALL[0]
    stock: list[torch.Tensor] = []
    hook = module.decoder.layers[-1].register_forward_hook(lambda *args: stock.append(args[2]))
    with torch.enable_grad():
        expected = clipseg_network.decode(module, reduced, scale, shift)
    hook.remove()
    module, half = module.to(DEVICE), torch.float16
    assert clipseg_decoder.FusedDecoder.suits(module.config)
    fused = clipseg_decoder.FusedDecoder(module.decoder, half)
    modulated = scale[:, None] * reduced[0] + shift[:, None]
    try:
        found = fused.layers(modulated.to(DEVICE), [level.to(DEVICE) for level in reduced[1:]])
    except Exception as error:
        # Triton's interpreter before 3.9 does not understand the newest numpy.
        if "only 0-dimensional arrays" not in str(error):
            raise
        pytest.skip("Triton's interpreter is older than numpy")
    assert found.dtype == half
    close(found.float().cpu(), stock[0], 1e-3)
    on_device = [level.to(DEVICE, half) for level in reduced], scale.to(DEVICE, half), shift.to(DEVICE, half)
    output = torch.empty_like(expected, device=DEVICE)
    with torch.autocast(DEVICE, half):
        clipseg_network.decode(module, *on_device, output, fused)
        again = clipseg_network.decode(module, *on_device, fused=fused)
    close(output.cpu(), expected, 2e-3)
    assert torch.equal(again, output)


def test_sizes_that_the_kernel_does_not_take() -> None:
    suits = clipseg_decoder.FusedDecoder.suits
    assert suits(clipseg_network.model_config("clipseg-rd64-refined"))
    assert not suits(clipseg_network.model_config("mini-clipseg"))
    plain = clipseg_network.model_config("clipseg-rd64-refined")
    plain.use_complex_transposed_convolution = False
    assert not suits(plain)
    narrow = clipseg_network.model_config("clipseg-rd64-refined")
    narrow.decoder_intermediate_size = 96
    assert not suits(narrow)
