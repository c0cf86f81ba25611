"""Mini IS-Net: objects without their shadows, from all six side outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tools.train_mini.data import Scenes, recolour
from tools.train_mini.loop import Plan, train
from zsad.models.isnet import ISNet
from zsad.models.state_dicts import seeded

BATCH = 8
WIDTH = 8


def train_isnet(scenes: Scenes, folder: Path, seed: int, steps: int) -> tuple[dict[str, Tensor], float]:
    """Returns (state dict, CPU minutes)."""
    network = seeded(lambda: ISNet(WIDTH), seed).to(memory_format=torch.channels_last)

    def step(rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        pairs = [_turned(rng, scenes, int(i)) for i in rng.integers(len(scenes.scenes), size=BATCH)]
        pixels = torch.from_numpy(np.stack([pair[0] for pair in pairs])).permute(0, 3, 1, 2).float() / 255 - 0.5
        truth = torch.from_numpy(np.stack([pair[1] for pair in pairs]))[:, None].float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            sides = network.forward_all(pixels.contiguous(memory_format=torch.channels_last))
        losses = [_loss(side.float(), truth) for side in sides]
        loss = losses[0] + 0.3 * torch.stack(losses[1:]).sum()
        hard = (sides[0].float() > 0) & (truth > 0.5)
        union = (sides[0].float() > 0) | (truth > 0.5)
        return loss, {"iou": float((hard.sum((1, 2, 3)) / union.sum((1, 2, 3)).clamp(min=1)).mean())}

    minutes = train(Plan("isnet", seed, steps, 4e-3, 0.01), network, step, folder)
    return network.state_dict(), minutes


def _turned(rng: np.random.Generator, scenes: Scenes, number: int) -> tuple[np.ndarray, np.ndarray]:
    turns = int(rng.integers(4))
    image, truth = np.rot90(scenes.scenes[number], turns), np.rot90(scenes.coverage[number], turns)
    if rng.random() < 0.5:
        image, truth = image[:, ::-1], truth[:, ::-1]
    return recolour(rng, image), np.ascontiguousarray(truth)


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus soft IoU per picture."""
    shown = torch.sigmoid(logits)
    overlap = (shown * truth).sum((1, 2, 3))
    union = (shown + truth - shown * truth).sum((1, 2, 3))
    return F.binary_cross_entropy_with_logits(logits, truth) + 0.5 * (1 - (overlap + 1) / (union + 1)).mean()
