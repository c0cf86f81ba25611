"""CLIP's convolutional towers with folded batch norms against open_clip's own."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from zsad.models import clip, clip_resnet
from zsad.models.device import autocast


def as_after_training(tower: nn.Module) -> None:
    """Give batch norms statistics, which are all ones and zeros when new, and bring attention out of the mean."""
    generator = torch.Generator().manual_seed(0)
    for layer in tower.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.2, 2),
                (layer.weight.data, 0.5, 1.5),
                (layer.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    for name, parameter in tower.attnpool.named_parameters():  # type: ignore[union-attr, operator]
        parameter.data.mul_(8 if name.endswith("weight") else 40)


def trained() -> ModifiedResNet:
    torch.manual_seed(0)
    tower = ModifiedResNet([1, 2, 1, 1], output_dim=24, heads=8, image_size=96, width=16)
    as_after_training(tower)
    return tower.eval()


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_tower_with_folded_batch_norms_is_open_clips() -> None:
    tower = trained()
    light = deepcopy(tower)
    clip_resnet.fold_batch_norms(light)
    images = torch.randn(3, 3, 96, 96)
    assert error(light(images), tower(images)) < 2e-6
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in light.modules())
    assert light(images[:0]).shape == (0, 24)


@torch.no_grad()
@pytest.mark.parametrize("bias", ["q_proj", "v_proj", "c_proj", "k_proj"])
def test_every_bias_counts_but_that_of_the_keys(bias: str) -> None:
    pool = clip_resnet.AttentionPool.of(trained().attnpool)
    features = torch.randn(2, 16 * 32, 3, 3)
    before = pool(features)
    values = getattr(pool, bias).bias
    values += 1 + torch.arange(len(values)) % 3
    assert torch.equal(pool(features), before) == (bias == "k_proj")


@torch.no_grad()
def test_pooling_is_open_clips_in_a_batch_and_alone() -> None:
    pool = trained().attnpool
    light = clip_resnet.AttentionPool.of(pool)
    assert light.state_dict().keys() == pool.state_dict().keys()
    features = torch.randn(5, 16 * 32, 3, 3)
    expected = pool(features)
    assert error(light(features), expected) < 2e-6
    assert error(light(features[:1]), expected[:1]) < 2e-6


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pooling_in_half_precision_is_as_close_to_float32_as_open_clips(dtype: torch.dtype) -> None:
    pool = trained().attnpool
    light = clip_resnet.AttentionPool.of(pool)
    features = torch.randn(5, 16 * 32, 3, 3)
    expected = pool(features)
    with torch.autocast("cpu", dtype):
        found, published = light(features).float(), pool(features).float()
    assert 0 < error(found, expected) < 1.5 * error(published, expected)


@torch.no_grad()
def test_ready_makes_a_convolutional_clip_light() -> None:
    torch.manual_seed(0)
    module = CLIP(**clip.model_config("random-clip")).eval()
    as_after_training(module.visual)
    half = deepcopy(module)
    images = torch.randn(2, 3, 160, 160)
    expected = module.encode_image(images)
    clip.ready(module, "cpu", "fp32")
    assert isinstance(module.visual.attnpool, clip_resnet.AttentionPool)
    assert error(module.encode_image(images), expected) < 2e-6
    clip.ready(half, "cpu", "bf16")
    with autocast("cpu", "bf16"):
        assert 1e-4 < error(half.encode_image(images).float(), expected) < 0.1
