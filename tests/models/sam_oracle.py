"""A small random SAM with varied masks, and the published generator's answer for comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor, nn

from zsad.config import ForegroundConfig, ModelConfig
from zsad.models import sam
from zsad.models.sam_encoder import fuse_attention
from zsad.models.sam_mask_generator import Annotation


class LocalDecoder(nn.Module):
    """A random decoder whose masks are made local: logits fall off around their own peak.

    Random weights alone give logits near zero over half the image. Here the random logits, standardised per
    mask, roughen a disc of a random radius (from nothing to the whole image) around their maximum; the
    predicted IoUs are spread over (0, 1).
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        # One prompt at a time, so that no last bit depends on the batch.
        each = [self._localise(*(one[None] for one in pair)) for pair in zip(*self.decoder(**inputs), strict=True)]
        return torch.cat([low for low, _ in each]), torch.cat([iou for _, iou in each])

    def _localise(self, low: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
        noise = (low - low.mean((2, 3), keepdim=True)) / low.std((2, 3), keepdim=True)
        height, width = low.shape[2:]
        peak = noise.flatten(2).argmax(2)[..., None, None]
        y, x = torch.arange(height)[:, None], torch.arange(width)[None]
        distance = ((y - peak // width) ** 2 + (x - peak % width) ** 2).float().sqrt()
        radius = width * ((1000 * iou) % 1)[..., None, None] ** 3
        return 6 * (radius - distance) + 9 * noise, torch.sigmoid(6 * torch.cos(900 * iou))


def small_sam(seed: int) -> sam.SAMModel:
    """``random-sam`` with larger random weights, so that its masks depend on prompt and image."""
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5, generator=generator)
            if "point_embeddings" in name or "pos_embed" in name:
                parameter.normal_(0, 1.0, generator=generator)
    network = model.network
    fuse_attention(network.image_encoder)
    network.mask_decoder = LocalDecoder(network.mask_decoder)  # type: ignore[assignment]
    return model


def published(model: sam.SAMModel, image: np.ndarray, config: ForegroundConfig, points: Any = None) -> list[dict]:
    """What ``SamAutomaticMaskGenerator`` returns for the same network and settings."""
    generator = SamAutomaticMaskGenerator(
        model.network,
        points_per_side=None if points is not None else config.points_per_side,
        point_grids=None if points is None else [points],
        points_per_batch=config.points_per_batch,
        pred_iou_thresh=config.pred_iou_threshold,
        stability_score_thresh=config.stability_threshold,
        stability_score_offset=config.stability_offset,
        box_nms_thresh=config.box_nms_threshold,
    )
    return generator.generate(image)


def assert_same(ours: list[Annotation], theirs: list[dict]) -> None:
    """Same annotations in the same order, bit for bit."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        height, width = other["segmentation"].shape
        x0, y0, x1, y1 = mine.box
        whole = np.zeros((height, width), bool)
        whole[y0:y1, x0:x1] = mine.mask
        assert int((whole != other["segmentation"]).sum()) == 0
        assert mine.area == other["area"]
        assert mine.predicted_iou == other["predicted_iou"]
        np.testing.assert_equal(mine.stability_score, other["stability_score"])
        assert list(mine.point) == other["point_coords"][0]
        assert [x0, y0, max(x1 - 1, 0) - x0, max(y1 - 1, 0) - y0] == other["bbox"]
