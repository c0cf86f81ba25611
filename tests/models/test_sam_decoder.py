"""The shared mask decoder against the published one."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from zsad.config import ForegroundConfig
from zsad.models import sam, sam_decoder, sam_network
from zsad.models.sam_decoder import SharedMaskDecoder
from zsad.models.sam_mask_generator import MaskGenerator
from zsad.models.state_dicts import seeded
from zsad.models.transposed import to_pixel_order

from .sam_oracle import published


def build(spread: float = 4.0) -> MaskDecoder:
    """The published decoder with larger random weights, so that its attention is not uniform."""

    def untrained() -> MaskDecoder:
        transformer = TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=128, num_heads=4)
        return MaskDecoder(transformer_dim=64, transformer=transformer, iou_head_hidden_dim=32)

    decoder = seeded(untrained)
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


def several(prompts: tuple[int, ...]) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Prompts of several images: one by one, and as one call."""
    alone = [inputs(count) | {"dense_prompt_embeddings": inputs(1)["dense_prompt_embeddings"]} for count in prompts]
    for one in alone:
        one["image_pe"] = alone[0]["image_pe"]
    names = ("image_embeddings", "sparse_prompt_embeddings")
    return alone, alone[0] | {name: torch.cat([one[name] for one in alone]) for name in names}


def owners(counts: tuple[int, ...]) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@torch.no_grad()
def test_images_in_one_call_get_the_very_logits_that_they_get_alone():
    decoder = SharedMaskDecoder.of(build())
    counts = (5, 1, 17, 33)
    alone, together = several(counts)
    expected = [decoder(**one, multimask_output=True) for one in alone]
    found = decoder(**together, multimask_output=True, owner=owners(counts))
    for ours, theirs in zip(found, zip(*expected, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(theirs))


@torch.no_grad()
def test_all_images_in_one_product_is_the_same_function(monkeypatch):
    """What runs on a GPU, where prompts are not computed in groups."""
    monkeypatch.setattr(sam_decoder, "prompts_at_once", lambda *_: None)
    published_decoder = build().double()
    decoder = SharedMaskDecoder.of(published_decoder)
    counts = (5, 1, 17)
    alone, together = (
        [{name: value.double() for name, value in one.items()} for one in several(counts)[0]],
        {name: value.double() for name, value in several(counts)[1].items()},
    )
    expected = [published_decoder(**one, multimask_output=True) for one in alone]
    found = decoder(**together, multimask_output=True, owner=owners(counts))
    for ours, theirs in zip(found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-9, rtol=1e-9)


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
    networks: list[Sam] = [seeded(lambda: sam_network.build("mini-sam")) for _ in range(2)]
    networks[0].mask_decoder = SharedMaskDecoder.of(networks[0].mask_decoder)
    for network in networks:
        network.eval().requires_grad_(False)
        network.mask_decoder = SmoothMasks(network.mask_decoder)  # type: ignore[assignment]
    ours, theirs = (sam.SAMModel(network, "cpu", "fp32", "") for network in networks)
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    config = ForegroundConfig(points_per_side=6)
    found, expected = MaskGenerator(ours).annotate(image, config), published(theirs, image, config)
    assert len(found) == len(expected) >= 10
    for mine, other in zip(found, expected, strict=True):
        x0, y0, x1, y1 = mine.box
        whole = np.zeros(image.shape[:2], bool)
        whole[y0:y1, x0:x1] = mine.mask
        assert np.array_equal(whole, other["segmentation"])
        assert list(mine.point) == other["point_coords"][0]


def test_batches_of_a_gpu_have_one_shape_and_give_the_same_annotations(monkeypatch):
    network: Sam = seeded(lambda: sam_network.build("mini-sam"))
    network.mask_decoder = SharedMaskDecoder.of(network.mask_decoder)
    network.eval().requires_grad_(False)
    network.mask_decoder = SmoothMasks(network.mask_decoder)  # type: ignore[assignment]
    model = sam.SAMModel(network, "cpu", "fp32", "")
    images = [np.random.default_rng(seed).integers(0, 256, (200, 300, 3), np.uint8) for seed in range(3)]
    config = ForegroundConfig(points_per_batch=24)
    points = [sam.point_grid(6)[: 36 - 7 * index] for index in range(3)]
    expected = [MaskGenerator(model).annotate(image, config, own) for image, own in zip(images, points, strict=True)]
    for module in (sam, sam_decoder):
        monkeypatch.setattr(module, "prompts_at_once", lambda *_: None)
    shapes: list[int] = []
    network.mask_decoder.register_forward_hook(lambda _module, _inputs, found: shapes.append(len(found[0])))
    found = list(MaskGenerator(model).annotate_all(images, config, points))
    assert shapes == [24] * 4
    assert [len(one) for one in found] == [len(one) for one in expected]
    for mine, other in zip(chain(*found), chain(*expected), strict=True):
        assert mine.box == other.box and mine.point == other.point
        assert np.array_equal(mine.mask, other.mask)


def test_load_gives_the_shared_decoder():
    assert isinstance(sam.load(sam.ModelConfig(name="random-sam")).network.mask_decoder, SharedMaskDecoder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_pixels_that_were_split_twice_are_brought_into_order(dtype):
    prompts, masks, height, width = 2, 3, 2, 5
    splits = torch.arange(prompts * masks * height * width * 16).view(prompts, masks, height, width, 2, 2, 2, 2)
    expected = torch.stack(
        [
            splits[:, :, row // 4, column // 4, row // 2 % 2, column // 2 % 2, row % 2, column % 2]
            for row in range(4 * height)
            for column in range(4 * width)
        ],
        -1,
    ).view(prompts, masks, 4 * height, 4 * width)
    given = (splits.flatten(2) % 256).to(dtype)
    found = torch.empty_like(expected, dtype=dtype)
    to_pixel_order(given, found.flatten(0, 1), (height, width), 2, 2)
    assert torch.equal(found, (expected % 256).to(dtype))


@pytest.mark.parametrize("multimask", [True, False])
@torch.no_grad()
def test_the_kernels_are_as_close_to_float32_as_autocast(multimask):
    """Two images share the batch, and the pixels are no multiple of what a program holds."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    decoder = SharedMaskDecoder.of(build(2.0).to(device))
    first, second = ({name: value.to(device) for name, value in inputs(prompts).items()} for prompts in (5, 3))
    dense, positions = first["dense_prompt_embeddings"], first["image_pe"]
    images = torch.cat([first["image_embeddings"], second["image_embeddings"]])
    prompts = torch.cat([first["sparse_prompt_embeddings"], second["sparse_prompt_embeddings"]])
    owner = owners((5, 3)).to(device)
    exact = decoder(images, positions, prompts, dense, multimask, owner)
    # Triton's interpreter does not multiply bfloat16.
    with torch.autocast(device, torch.float16):
        rounded = decoder(images, positions, prompts, dense, multimask, owner)
        chosen = range(1, 4) if multimask else range(1)
        embedded, where = sam_decoder._tokens(images + dense[:1]), sam_decoder._tokens(positions)
        fused = decoder._decode_fused(embedded, where, prompts, owner, (8, 6), chosen, torch.float16)
    for reference, theirs, ours in zip(exact, rounded, fused, strict=True):
        assert ours.shape == reference.shape
        error = torch.linalg.vector_norm(ours - reference)
        assert 0 < error < 1.5 * torch.linalg.vector_norm(theirs - reference)
