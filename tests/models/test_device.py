"""What is cast once computes the same, bit for bit, as what autocast casts at every call."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from zsad.config import ModelConfig
from zsad.models import clip, clipseg, clipseg_network, sam
from zsad.models.device import autocast, host_tensor, images_at_once, place, to_host
from zsad.models.sam_encoder import FusedAttention

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _vit():
    sizes = {"layers": 2, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1}
    module = clip.CLIP(32, sizes, text)
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(1, 16, (2, 8))
    return module, [module.visual], lambda one: (one.encode_image(images), one.encode_text(tokens))


def _resnet():
    module = clip.build("random-clip")
    images = torch.randn(2, 3, 160, 160)
    return module, [module.visual], lambda one: (one.encode_image(images),)


def _sam():
    network = sam.load(ModelConfig(name="random-sam")).network
    pixels = torch.randn(1, 3, 288, 288)
    return network, [network.image_encoder], lambda one: (one.image_encoder(pixels),)


def _clipseg():
    module = clipseg_network.build("random-clipseg")
    pixels, prompts = torch.randn(2, 3, 256, 256), torch.randn(2, 64)

    def call(one):
        levels = clipseg_network.reductions(one, pixels)
        return (clipseg_network.decode(one, levels, *clipseg_network.film(one, prompts)),)

    return module, [module.clip.vision_model, module.decoder], call


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("build", [_vit, _resnet, _sam, _clipseg])
@torch.no_grad()
def test_held_weights_change_no_bit(build, precision):
    torch.manual_seed(0)
    network, parts, call = build()
    network.eval()
    with torch.autocast("cpu", HALVES[precision]):
        expected = call(network)
    place(network, "cpu", precision, parts, also=(FusedAttention,))
    with autocast("cpu", precision):
        got = call(network)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    cast = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert cast and all(layer.weight.dtype == HALVES[precision] for layer in cast)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.LayerNorm)]
    assert all(layer.weight.dtype == torch.float32 for layer in norms)


@torch.no_grad()
def test_on_a_gpu_the_weights_of_attention_are_held_too(monkeypatch):
    """With autocast a GPU never takes the kernel that is turned off here."""
    torch.manual_seed(0)
    network, parts, call = _vit()
    move = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda module, what: module if what == "cuda" else move(module, what))
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with autocast("cpu", "bf16"):
            expected = call(network.eval())
            got = call(place(network, "cuda", "bf16", parts))
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
    assert network.visual.transformer.resblocks[0].attn.in_proj_weight.dtype == torch.bfloat16
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("load", [clip.load, clipseg.load])
def test_the_text_tower_is_left_alone(load):
    name = f"random-{load.__module__.rpartition('.')[2]}"
    module = load(ModelConfig(name=name), precision="bf16").module
    tower = module.transformer if load is clip.load else module.clip.text_model
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}


def test_single_precision_changes_no_weight():
    network = clipseg_network.build("random-clipseg")
    before = copy.deepcopy(network.state_dict())
    place(network, "cpu", "fp32", [network])
    after = network.state_dict()
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before.items())
    assert not network.training


def test_autocast_of_single_precision_does_nothing():
    with autocast("cpu", "fp32"):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")


def test_on_a_cpu_nothing_is_copied():
    pixels = host_tensor((2, 3), "cpu")
    assert pixels.dtype == torch.float32 and not pixels.is_pinned()
    pixels.numpy()[:] = 7
    assert np.shares_memory(to_host(pixels), pixels.numpy()) and to_host(pixels).sum() == 42


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", True)])
def test_single_precision_on_a_gpu_is_not_tf32(monkeypatch, precision, allowed):
    monkeypatch.setattr(nn.Module, "to", lambda module, *args: module)
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        place(nn.Linear(1, 1), "cuda", precision)
        assert torch.backends.cudnn.allow_tf32 is allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("count", "on_cpu"), [(0, 1), (1, 1), (4, 4), (9, 4)])
def test_a_cpu_takes_a_few_images_at_once_and_a_gpu_all(count, on_cpu):
    assert images_at_once(count, "cpu") == on_cpu
    assert images_at_once(count, "cuda:1") == max(1, count)
