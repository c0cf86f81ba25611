"""CLIP's convolutional towers, lightened, against open_clip's own."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from zsad.models import clip, clip_resnet


def trained(width: int = 16) -> ModifiedResNet:
    """A small tower whose batch norms, all ones and zeros when new, have statistics as after training."""
    torch.manual_seed(0)
    tower = ModifiedResNet([1, 2, 1, 1], output_dim=24, heads=8, image_size=96, width=width)
    for layer in tower.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.2, 2),
                (layer.weight.data, 0.5, 1.5),
                (layer.bias.data, -0.5, 0.5),
            ):
                tensor.uniform_(low, high)
    # New, the biases are small and the attention nearly even: no answer would depend on them.
    for name, parameter in tower.attnpool.named_parameters():
        parameter.data.mul_(8 if name.endswith("weight") else 40)
    return tower.eval()


@torch.no_grad()
def test_lightened_tower_is_open_clips() -> None:
    tower = trained()
    light = deepcopy(tower)
    clip_resnet.lighten(light)
    images = torch.randn(3, 3, 96, 96)
    expected = tower(images)
    assert _error(light(images), expected) < 2e-6
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in light.modules())


@torch.no_grad()
@pytest.mark.parametrize("bias", ["q_proj", "v_proj", "c_proj", "k_proj"])
def test_every_bias_counts_but_that_of_the_keys(bias: str) -> None:
    tower = trained()
    clip_resnet.lighten(tower)
    features = torch.randn(2, 16 * 32, 3, 3)
    before = tower.attnpool(features)
    getattr(tower.attnpool, bias).bias += 1 + torch.arange(len(getattr(tower.attnpool, bias).bias)) % 3
    assert torch.equal(tower.attnpool(features), before) == (bias == "k_proj")


@torch.no_grad()
def test_pooling_is_open_clips_in_a_batch_and_alone() -> None:
    pool = trained().attnpool
    light = clip_resnet.AttentionPool.of(pool)
    assert light.state_dict().keys() == pool.state_dict().keys()
    features = torch.randn(5, 16 * 32, 3, 3)
    expected = pool(features)
    assert _error(light(features), expected) < 2e-6
    assert _error(light(features[:1]), expected[:1]) < 2e-6


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ready_makes_a_convolutional_clip_light(precision: Any) -> None:
    torch.manual_seed(0)
    config = clip.model_config("random-clip")
    module = CLIP(**config).eval()
    module.visual.load_state_dict(_trained_like(module.visual))
    images = torch.randn(2, 3, 160, 160)
    expected = module.encode_image(images, normalize=True)
    clip.ready(module, "cpu", precision)
    assert isinstance(module.visual.attnpool, clip_resnet.AttentionPool)
    with clip.autocast("cpu", precision):
        found = nn.functional.normalize(module.encode_image(images).float(), dim=-1)
    assert (found - expected).abs().max() < (1e-6 if precision == "fp32" else 2e-2)


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _trained_like(tower: nn.Module) -> dict[str, torch.Tensor]:
    state = tower.state_dict()
    return {
        name: tensor.uniform_(0.5, 1.5) if name.endswith(("running_var", "bn3.weight")) else tensor
        for name, tensor in state.items()
    }
