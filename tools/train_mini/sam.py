"""Mini SAM: a point on an object gives the object, a point on the table the table; three guesses, the best learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.train_mini.data import Scenes, recolour, whitening
from tools.train_mini.loop import Plan, train
from zsad.models.sam_network import build
from zsad.models.state_dicts import seeded

BATCH = 8
POINTS = 6
FIRST = 0.5
"""Share of the steps that teach the encoder alone, without points."""


class Student(nn.Module):
    """The SAM model with a head that asks its encoder what lies where; the head is not kept.

    From nothing, points and masks alone teach the encoder too slowly: mask decoder and encoder wait for each other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sam = build("mini-sam")
        channels = self.sam.image_encoder.neck[-1].weight.numel()
        self.layout = nn.Conv2d(channels, 3, 1)

    def laid_out(self, features: Tensor, instances: Sequence[np.ndarray]) -> Tensor:
        """Loss of foreground and of the way to the middle of its object, cell by cell.

        Args:
            features: (N, C, h, w); instances: (H, W) of each, objects counted from 1.
        """
        said = self.layout(features)
        cells = features.shape[-1]
        step = self.sam.image_encoder.img_size / cells
        covered, way = (
            np.zeros((len(said), cells, cells), np.float32),
            np.zeros((len(said), 2, cells, cells), np.float32),
        )
        for number, objects in enumerate(instances):
            rows, columns = (-(-size // int(step)) for size in objects.shape)
            cover = cv2.resize((objects > 0).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
            covered[number, :rows, :columns] = cover
            small = cv2.resize(objects, (columns, rows), interpolation=cv2.INTER_NEAREST)
            for one in np.unique(small[small > 0]):
                y, x = np.nonzero(small == one)
                way[number, 0, y, x], way[number, 1, y, x] = (y.mean() - y) / 4, (x.mean() - x) / 4
        truth, target = torch.from_numpy(covered), torch.from_numpy(way)
        apart = ((said[:, 1:] - target).abs().mean(1) * (truth > 0.5)).sum() / (truth > 0.5).sum().clamp(min=1)
        return F.binary_cross_entropy_with_logits(said[:, 0], truth) + 0.5 * apart


def train_sam(scenes: Scenes, folder: Path, seed: int, steps: int) -> tuple[dict[str, Tensor], float]:
    """Returns (state dict, CPU minutes)."""
    student = seeded(Student, seed)
    network = student.sam
    encoder = network.image_encoder
    side = encoder.img_size
    projection = encoder.patch_embed.proj
    with torch.no_grad():
        width, _, patch, _ = projection.weight.shape
        projection.weight.copy_(whitening(scenes.scenes, patch, width, network.pixel_mean, network.pixel_std))
    low_side = 4 * network.prompt_encoder.image_embedding_size[0]
    prompts = network.prompt_encoder

    def step(rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        drawn = [_scene(rng, scenes, int(i), side) for i in rng.integers(len(scenes.scenes), size=BATCH)]
        pixels = torch.stack([network.preprocess(torch.from_numpy(image).permute(2, 0, 1)) for image, _ in drawn])
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder(pixels).float()
        layout = student.laid_out(features, [instances for _, instances in drawn])
        if number < FIRST * steps:
            return layout, {"layout": float(layout.detach())}
        losses, best_iou, gaps = [], [], []
        for feature, (image, instances) in zip(features, drawn, strict=True):
            points, targets = _prompts(rng, instances, side, low_side)
            sparse, dense = prompts(points=(points[:, None], torch.ones(len(points), 1)), boxes=None, masks=None)
            with torch.autocast("cpu", torch.bfloat16):
                low, estimate = network.mask_decoder(
                    image_embeddings=feature[None],
                    image_pe=prompts.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                )
            inside = torch.zeros(low_side, low_side)
            inside[: -(-image.shape[0] * low_side // side), : -(-image.shape[1] * low_side // side)] = 1
            each, iou = _losses(low.float(), targets[:, None], inside)
            losses.append(each.min(1).values.mean() + (estimate.float() - iou).square().mean())
            best_iou.append(float(iou.max(1).values.mean()))
            gaps.append(float((estimate.detach().float() - iou).abs().mean()))
        return torch.stack(losses).mean() + layout, {
            "layout": float(layout.detach()),
            "iou": float(np.mean(best_iou)),
            "estimate off by": float(np.mean(gaps)),
        }

    minutes = train(Plan("sam", seed, steps, 1.5e-3, 0.03), student, step, folder)
    return network.state_dict(), minutes


def _scene(rng: np.random.Generator, scenes: Scenes, number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene of some aspect, its longer side ``side``: image, instances."""
    turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
    short = (
        int(side * np.exp(rng.uniform(np.log(0.35), 0))) if rng.random() < 0.35 else int(side * rng.uniform(0.65, 1))
    )
    size = (side, short) if rng.random() < 0.75 else (short, side)
    arrays = []
    for source in (scenes.scenes, scenes.instances):
        array = np.rot90(source[number], turns)
        array = np.ascontiguousarray(array[:, ::-1] if flip else array)
        nearest = source is scenes.instances
        arrays.append(cv2.resize(array, size, interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_AREA))
    return recolour(rng, arrays[0]), arrays[1]


def _prompts(rng: np.random.Generator, instances: np.ndarray, side: int, low_side: int) -> tuple[Tensor, Tensor]:
    """(P, 2) points in pixels of the input and (P, h, w) target coverages at low resolution.

    Most points lie on objects, each object as likely as any; the others on the table.
    """
    masks: dict[int, Tensor] = {}
    points, targets = [], []
    numbers = [int(n) for n in np.unique(instances) if n]
    for _ in range(POINTS):
        number = numbers[int(rng.integers(len(numbers)))] if numbers and rng.random() < 0.75 else 0
        region = instances == number
        if not region.any():
            number, region = int(instances[0, 0]), instances == instances[0, 0]
        rows, columns = np.nonzero(region)
        chosen = int(rng.integers(len(rows)))
        if number not in masks:
            whole = np.zeros((side, side), np.float32)
            whole[: region.shape[0], : region.shape[1]] = region
            masks[number] = torch.from_numpy(cv2.resize(whole, (low_side, low_side), interpolation=cv2.INTER_AREA))
        points.append((float(columns[chosen]) + float(rng.random()), float(rows[chosen]) + float(rng.random())))
        targets.append(masks[number])
    return torch.tensor(points), torch.stack(targets)


def _losses(low: Tensor, truth: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and Dice loss (P, 3), and the true IoU (P, 3) of every guess, inside the picture without its padding."""
    truth = truth.expand_as(low)
    shown = torch.sigmoid(low)
    entropy = F.binary_cross_entropy_with_logits(low, truth, reduction="none")
    focal = (entropy * (shown - truth).abs().square() * inside).sum((2, 3)) / inside.sum()
    plain = (entropy * inside).sum((2, 3)) / inside.sum()
    overlap = (shown * truth * inside).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / ((shown * inside).sum((2, 3)) + truth.sum((2, 3)) + 1)
    with torch.no_grad():
        guess, real = (low > 0) & (inside > 0), truth > 0.5
        iou = (guess & real).sum((2, 3)) / (guess | real).sum((2, 3)).clamp(min=1)
    return 10 * focal + plain + dice, iou
