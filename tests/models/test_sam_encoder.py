"""The encoder with fused attention against the published one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block

from zsad.models import sam, sam_encoder, sam_network
from zsad.models.sam_encoder import FusedAttention, FusedBlock, fuse_attention
from zsad.models.state_dicts import seeded


def varied(module: torch.nn.Module) -> torch.nn.Module:
    """The published initialisation has no relative positions: random ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 1.0 / max(parameter.shape[-1], 1) ** 0.5, generator=generator)
    return module


@pytest.mark.parametrize("size", [(5, 5), (7, 3)])
@pytest.mark.parametrize("use_rel_pos", [True, False])
@pytest.mark.parametrize("at_once", ["as on a GPU", 2**20, 5 * 441, 60, 1])
@torch.no_grad()
def test_attention_is_the_same_function(monkeypatch, size, use_rel_pos, at_once):
    """As on a GPU; all heads, some heads, some queries of one head (with a rest) and one query at a time."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    if at_once == "as on a GPU":
        monkeypatch.setattr(sam_encoder, "_on_cpu", lambda device: False)
    else:
        monkeypatch.setattr(sam_encoder, "_LOGITS_ON_CPU", at_once)
    attention = varied(Attention(32, num_heads=4, use_rel_pos=use_rel_pos, input_size=size)).double()
    x = torch.randn(3, *size, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = attention(x)
    torch.testing.assert_close(FusedAttention.of(attention)(x), expected, atol=1e-12, rtol=1e-12)
    in_single = attention.float()(x.float())
    error = (FusedAttention.of(attention)(x.float()) - expected).abs().max()
    assert error <= 4 * (in_single - expected).abs().max() + 1e-7


@pytest.mark.parametrize("threads", [1, 2])
@torch.no_grad()
def test_on_a_cpu_few_logits_are_held_at_once(monkeypatch, threads):
    held = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    attend = torch.nn.functional.scaled_dot_product_attention

    def counting(query, key, value, mask, **options):
        held.append(mask.numel())
        return attend(query, key, value, mask, **options)

    monkeypatch.setattr(sam_encoder, "_LOGITS_ON_CPU", 100)
    monkeypatch.setattr(sam_encoder.F, "scaled_dot_product_attention", counting)
    attention = FusedAttention.of(varied(Attention(32, num_heads=4, use_rel_pos=True, input_size=(5, 5))))
    attention(torch.ones(3, 5, 5, 32))
    assert 100 * (threads - 1) < max(held) <= 100 * threads
    assert sum(held) == 3 * 4 * 25 * 25


@pytest.mark.parametrize("on_cpu", [True, False])
@torch.no_grad()
def test_encoder_is_the_same_function(monkeypatch, on_cpu):
    monkeypatch.setattr(sam_encoder, "_on_cpu", lambda device: on_cpu)
    layer_norm = partial(torch.nn.LayerNorm, eps=1e-6)
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "out_chans": 16}
    encoder = ImageEncoderViT(**sizes, norm_layer=layer_norm, use_rel_pos=True, window_size=3, global_attn_indexes=(1,))
    varied(encoder).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected, names = encoder(x), list(encoder.state_dict())
    fuse_attention(encoder)
    torch.testing.assert_close(encoder(x), expected, atol=1e-10, rtol=1e-10)
    assert list(encoder.state_dict()) == names


def test_load_gives_the_fused_attention():
    network = sam.load(sam.ModelConfig(name="random-sam")).network
    assert all(isinstance(block.attn, FusedAttention) for block in network.image_encoder.blocks)
    published = seeded(lambda: sam_network.build("mini-sam"))
    assert list(published.state_dict()) == list(network.state_dict())


@pytest.mark.parametrize("half", [False, True])
@torch.no_grad()
def test_the_position_tables_are_made_once(monkeypatch, half):
    attention = varied(Attention(32, num_heads=4, use_rel_pos=True, input_size=(7, 3)))
    fused = FusedAttention.of(attention)
    x = torch.randn(2, 7, 3, 32, generator=torch.Generator().manual_seed(1))
    if half:
        fused.to(torch.bfloat16)
        x = x.bfloat16()
    expected = FusedAttention.of(fused)(x)
    monkeypatch.setattr(sam_encoder, "get_rel_pos", None)
    monkeypatch.setattr(torch, "eye", None)
    assert torch.equal(fused(x), expected)
    monkeypatch.setattr(sam_encoder, "_on_cpu", lambda device: False)
    torch.testing.assert_close(fused(x), expected, atol=1e-5 if not half else 0.05, rtol=1e-3)


@torch.no_grad()
def test_another_size_than_the_native_one_is_the_same_function():
    attention = varied(Attention(32, num_heads=4, use_rel_pos=True, input_size=(7, 3))).double()
    x = torch.randn(2, 5, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(FusedAttention.of(attention)(x), attention(x), atol=1e-12, rtol=1e-12)


def test_the_tables_are_no_part_of_the_published_module():
    attention = Attention(32, num_heads=4, use_rel_pos=True, input_size=(7, 3))
    fused = FusedAttention.of(attention)
    assert list(fused.state_dict()) == list(attention.state_dict())
    assert len(list(fused.buffers())) == 3 and not list(attention.buffers())


@pytest.mark.parametrize(("window", "size", "width"), [(5, (12, 7), 48), (0, (6, 6), 40)])
@torch.no_grad()
def test_the_kernel_is_as_close_to_float32_as_autocast(window, size, width):
    """Windows beyond the edge of the image, and channels that are no power of two."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    block = varied(Block(width, num_heads=2, use_rel_pos=True, window_size=window, input_size=size)).float().to(device)
    x = torch.randn(2, *size, width, generator=torch.Generator().manual_seed(0)).to(device)
    exact, fused = block(x), FusedBlock.of(block)
    # Triton's interpreter does not multiply bfloat16.
    with torch.autocast(device, torch.float16):
        rounded = block(x)
        ours = fused._fused(x, torch.float16)
    error = torch.linalg.vector_norm(ours - exact)
    assert 0 < error < 1.5 * torch.linalg.vector_norm(rounded - exact)


@torch.no_grad()
def test_windows_of_another_size_than_the_terms_are_left_to_torch():
    block = FusedBlock.of(Block(32, num_heads=2, use_rel_pos=True, window_size=4, input_size=(8, 8)))
    assert block.attn.in_windows(torch.zeros(1, 8, 8, 32), 5, torch.float16) is None
