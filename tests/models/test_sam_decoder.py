"""The shared mask decoder against the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from zsad.config import ForegroundConfig
from zsad.models import sam
from zsad.models.sam_decoder import SharedMaskDecoder
from zsad.models.state_dicts import seeded

from .sam_oracle import published


def build(spread: float = 4.0) -> MaskDecoder:
    """The published decoder with larger random weights, so that its attention is not uniform."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=128, num_heads=4)
    decoder = seeded(lambda: MaskDecoder(transformer_dim=64, transformer=transformer, iou_head_hidden_dim=32))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, spread / parameter[0].numel() ** 0.5, generator=generator)
            else:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return decoder.eval()


def inputs(prompts: int, height: int = 8, width: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(prompts)
    image, positions = torch.randn(2, 1, 64, height, width, generator=generator)
    dense = torch.randn(1, 64, 1, 1, generator=generator).expand(prompts, -1, height, width)
    return {
        "image_embeddings": image,
        "image_pe": positions,
        "sparse_prompt_embeddings": torch.randn(prompts, 2, 64, generator=generator),
        "dense_prompt_embeddings": dense,
    }


@pytest.mark.parametrize("prompts", [1, 3, 16, 37])
@pytest.mark.parametrize("multimask", [True, False])
@torch.no_grad()
def test_equals_the_published_decoder(prompts, multimask):
    """The same function in double precision; in float32 as close to that as the published decoder is."""
    single, double = build(), build().double()
    given = inputs(prompts)
    exactly = {name: value.double() for name, value in given.items()}
    exact = double(**exactly, multimask_output=multimask)
    shared = SharedMaskDecoder.of(double)(**exactly, multimask_output=multimask)
    published_32 = single(**given, multimask_output=multimask)
    shared_32 = SharedMaskDecoder.of(single)(**given, multimask_output=multimask)
    assert exact[0].shape == (prompts, 3 if multimask else 1, 32, 24)
    for reference, ours, theirs_32, ours_32 in zip(exact, shared, published_32, shared_32, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-9, rtol=1e-9)
        assert ours_32.dtype == torch.float32 and ours_32.shape == reference.shape
        error = (ours_32 - reference).abs().max()
        assert error <= 4 * (theirs_32 - reference).abs().max() + 1e-6 * reference.abs().max()


def test_parameters_are_the_published_ones():
    decoder = build()
    shared = SharedMaskDecoder.of(decoder)
    assert list(shared.state_dict()) == list(decoder.state_dict())
    assert all(a is b for a, b in zip(shared.parameters(), decoder.parameters(), strict=True))


class SmoothMasks(nn.Module):
    """Discs placed by the prompt and roughened by a decoder's logits: varied masks that its last bits do not decide."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, **given: Tensor) -> tuple[Tensor, Tensor]:
        low, _ = self.decoder(**given)
        code = given["sparse_prompt_embeddings"][:, 0].double().abs().sum(1, keepdim=True)
        draw = ((code * torch.tensor([1e3, 7e3, 3e4, 5e2])) % 1).float()
        height, width = low.shape[2:]
        y, x = torch.arange(height)[:, None], torch.arange(width)[None]
        distance = ((y - draw[:, 0, None, None] * height) ** 2 + (x - draw[:, 1, None, None] * width) ** 2).sqrt()
        radius = 0.3 * width * draw[:, 2, None] * torch.tensor([0.4, 0.7, 1.0])
        logits = 20 * (radius[..., None, None] - distance[:, None]) + 3 * low / low.std((2, 3), keepdim=True)
        return logits, 0.8 + 0.2 * (draw[:, 3:] + torch.tensor([0.0, 0.33, 0.67])) % 1


def test_annotations_equal_those_of_the_published_generator_and_decoder():
    networks: list[Sam] = [seeded(sam.build_mini_sam) for _ in range(2)]
    networks[0].mask_decoder = SharedMaskDecoder.of(networks[0].mask_decoder)
    for network in networks:
        network.eval().requires_grad_(False)
        network.mask_decoder = SmoothMasks(network.mask_decoder)  # type: ignore[assignment]
    ours, theirs = (sam.SAMModel(network, "cpu", "fp32", "") for network in networks)
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    config = ForegroundConfig(points_per_side=6)
    found, expected = ours.annotate(image, config), published(theirs, image, config)
    assert len(found) == len(expected) >= 10
    for mine, other in zip(found, expected, strict=True):
        x0, y0, x1, y1 = mine.box
        whole = np.zeros(image.shape[:2], bool)
        whole[y0:y1, x0:x1] = mine.mask
        assert np.array_equal(whole, other["segmentation"])
        assert list(mine.point) == other["point_coords"][0]


def test_load_gives_the_shared_decoder():
    assert isinstance(sam.load(sam.ModelConfig(name="random-sam")).network.mask_decoder, SharedMaskDecoder)
