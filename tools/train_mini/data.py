"""Training pictures, rendered once and kept as uint8 arrays: whole scenes and the crops that tiling would make."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from zsad.config import TilingConfig
from zsad.datasets.synthetic import DEFECTS, KINDS_A, render, sample_rng
from zsad.datasets.synthetic.scene import photograph, table
from zsad.images import decode
from zsad.method.tiling import Tile, crop, tile_image

SCENE = 320
CROP = 256
MARGIN = 1.15
"""Cached crops are larger than the tiles by this factor, so that training can shift and scale within them."""
MIN_SIDE = 128
EMPTY = len(DEFECTS) + 1
"""Label of a crop or a scene of the bare table."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """The cache, memory-mapped.

    Attributes:
        scenes: (N, 320, 320, 3) as IS-Net sees them, aspect squashed; coverage: (N, 320, 320) foreground.
        instances: (N, 320, 320) objects counted from 1; faults: (N, 320, 320) defect coverage.
        crops: (M, 256, 256, 3); crop_faults: (M, 256, 256) defect coverage, 0 to 255.
        crop_labels: (M,) 0 normal, 1 + index in DEFECTS, or EMPTY; crop_kinds: (M,) index in KINDS_A.
    """

    scenes: Bytes
    coverage: Bytes
    instances: Bytes
    faults: Bytes
    crops: Bytes
    crop_faults: Bytes
    crop_labels: Bytes
    crop_kinds: Bytes


FIELDS = tuple(Pictures.__dataclass_fields__)


def prepare(folder: Path, seed: int, normal: int, anomalous: int, workers: int) -> Pictures:
    """Render the training pictures of all kinds A into ``folder``, or reuse those that are there.

    Args:
        seed: of the pictures; normal, anomalous: pictures per kind; workers: processes.
    """
    target = folder / f"pictures-{seed}-{normal}-{anomalous}"
    if not (target / "done").exists():
        target.mkdir(parents=True, exist_ok=True)
        jobs = [
            (kind, n, seed, bad) for n in range(max(normal, anomalous)) for kind in KINDS_A for bad in (False, True)
        ]
        jobs = [job for job in jobs if job[1] < (anomalous if job[3] else normal)]
        jobs += [("", n, seed, False) for n in range(len(jobs) // 20)]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_single_threaded) as pool:
            parts = [part for part in pool.map(picture, jobs, chunksize=16)]
        for field in FIELDS:
            np.save(target / f"{field}.npy", np.concatenate([part[field] for part in parts]))
        (target / "done").touch()
    return Pictures(**{field: np.load(target / f"{field}.npy", mmap_mode="r") for field in FIELDS})


def picture(job: tuple[str, int, int, bool]) -> dict[str, Bytes]:
    """One photograph as a row of every array of ``Pictures``; with kind ``""`` a bare table."""
    kind, number, seed, anomalous = job
    rng = sample_rng(kind, number, seed, anomalous)
    if kind:
        sample = render(kind, rng, anomalous)
        image, mask, foreground = sample.image, sample.mask, sample.foreground
    else:
        image = bare_table(rng)
        mask, foreground = np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.bool_)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    scene = F.interpolate(pixels, (SCENE, SCENE), mode="bilinear", align_corners=False)[0]
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(foreground.view(np.uint8), connectivity=8)
    own = {
        "scenes": scene.to(torch.uint8).permute(1, 2, 0).numpy()[None],
        "coverage": _coverage(foreground, SCENE)[None],
        "instances": cv2.resize(labels.astype(np.uint8), (SCENE, SCENE), interpolation=cv2.INTER_NEAREST)[None],
        "faults": _coverage(mask > 0, SCENE)[None],
    }
    return own | _crops(rng, image, mask, statistics[1:][statistics[1:, cv2.CC_STAT_AREA] >= 0.001 * mask.size], kind)


def bare_table(rng: np.random.Generator) -> Bytes:
    """A photograph (H, W, 3) of a table with nothing on it."""
    shape = (int(rng.integers(300, 900)), int(rng.integers(400, 1200)))
    scene = table(rng, shape, bool(rng.random() < 0.5))
    x, y = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[0]))
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    scene *= (1 + fall * (x * np.cos(angle) + y * np.sin(angle)))[..., None].astype(np.float32)
    return decode(photograph(rng, scene, int(rng.integers(72, 98))), 10_000_000)


def _crops(
    rng: np.random.Generator, image: Bytes, mask: Bytes, boxes: NDArray[np.int32], kind: str
) -> dict[str, Bytes]:
    height, width = mask.shape
    corners = np.stack([boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], 1)
    # Some long objects are tiled along their axis, as those with many parts are.
    parts = np.where(rng.random(len(corners)) < 0.3, 99, 0)
    tiles = list(tile_image(corners, parts, height, width, MIN_SIDE, TilingConfig(max_tiles=12)).tiles)
    if not kind:
        side = int(min(height, width) * rng.uniform(0.3, 1.0))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        tiles = [Tile(left, top, left + side, top + side, 0)]
    found: dict[str, list[Bytes]] = {"crops": [], "crop_faults": [], "crop_labels": [], "crop_kinds": []}
    sound = 0
    for number in rng.permutation(len(tiles)):
        tile = tiles[number]
        inside = crop(mask[..., None].repeat(3, 2), tile)[..., 0]
        label = EMPTY if not kind else int(inside.max())
        if label in (0, EMPTY):
            sound += 1
            if sound > 2:
                continue
        extra = int((tile.x1 - tile.x0) * (MARGIN - 1) / 2)
        wide = Tile(tile.x0 - extra, tile.y0 - extra, tile.x1 + extra, tile.y1 + extra, 0)
        seen = Image.fromarray(np.ascontiguousarray(crop(image, wide))).resize((CROP, CROP), Image.Resampling.BICUBIC)
        found["crops"].append(np.asarray(seen))
        found["crop_faults"].append(_coverage(crop(mask[..., None].repeat(3, 2), wide)[..., 0] > 0, CROP))
        found["crop_labels"].append(np.uint8(label))
        found["crop_kinds"].append(np.uint8(KINDS_A.index(kind) if kind else len(KINDS_A)))
    shapes = {"crops": (CROP, CROP, 3), "crop_faults": (CROP, CROP), "crop_labels": (), "crop_kinds": ()}
    return {
        field: np.stack(rows).astype(np.uint8) if rows else np.zeros((0, *shapes[field]), np.uint8)
        for field, rows in found.items()
    }


def _coverage(mask: NDArray[np.bool_], side: int) -> Bytes:
    return cv2.resize(mask.astype(np.uint8) * 255, (side, side), interpolation=cv2.INTER_AREA)


def _single_threaded() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def view(rng: np.random.Generator, pictures: Pictures, number: int, side: int, near: float) -> tuple[Bytes, Bytes]:
    """A cached crop as training sees it: shifted, scaled, turned, in other colours.

    Args:
        near: probability of a closer look, at a defect where there is one: what is learned large is found small.

    Returns:
        (image (side, side, 3) uint8, defect coverage (side, side) uint8).
    """
    close = bool(rng.random() < near)
    reach = int(CROP / MARGIN * (rng.uniform(0.3, 0.9) if close else rng.uniform(0.9, 1.1)))
    left, top = (int(rng.integers(CROP - reach + 1)) for _ in range(2))
    rows, columns = np.nonzero(pictures.crop_faults[number] > 100) if close else (np.zeros(0), np.zeros(0))
    if len(rows):
        chosen = int(rng.integers(len(rows)))
        left = int(np.clip(columns[chosen] - reach * rng.uniform(0.15, 0.85), 0, CROP - reach))
        top = int(np.clip(rows[chosen] - reach * rng.uniform(0.15, 0.85), 0, CROP - reach))
    return _seen(rng, pictures, number, (left, top, reach), side)


def window(rng: np.random.Generator, pictures: Pictures, number: int, side: int, whole: int) -> tuple[Bytes, Bytes]:
    """A part of a cached crop as training sees it, mostly with the rim of a defect where there is one.

    Local features learn several times faster on windows: most of a crop is sound, and all of it costs the same.

    Args:
        side: of the window, pixels, at the scale at which the whole tile would have ``whole`` pixels.

    Returns:
        (image (side, side, 3) uint8, defect coverage (side, side) uint8).
    """
    reach = min(int(CROP / MARGIN * side / whole * rng.uniform(0.8, 1.2)), CROP)
    left, top = (int(rng.integers(CROP - reach + 1)) for _ in range(2))
    if rng.random() < 0.8:
        fault = (pictures.crop_faults[number] > 100).astype(np.uint8)
        rows, columns = np.nonzero(fault - cv2.erode(fault, np.ones((3, 3), np.uint8)))
        if len(rows):
            chosen = int(rng.integers(len(rows)))
            left = int(np.clip(columns[chosen] - reach * rng.uniform(0.1, 0.9), 0, CROP - reach))
            top = int(np.clip(rows[chosen] - reach * rng.uniform(0.1, 0.9), 0, CROP - reach))
    return _seen(rng, pictures, number, (left, top, reach), side)


def _seen(
    rng: np.random.Generator, pictures: Pictures, number: int, square: tuple[int, int, int], side: int
) -> tuple[Bytes, Bytes]:
    left, top, reach = square
    part = np.s_[top : top + reach, left : left + reach]
    how = cv2.INTER_AREA if reach > side else cv2.INTER_LINEAR
    image = cv2.resize(pictures.crops[number][part], (side, side), interpolation=how)
    fault = cv2.resize(pictures.crop_faults[number][part], (side, side), interpolation=how)
    turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
    image, fault = np.rot90(image, turns), np.rot90(fault, turns)
    if flip:
        image, fault = image[:, ::-1], fault[:, ::-1]
    image = np.ascontiguousarray(image)
    return recolour(rng, repaint(rng, image) if rng.random() < 0.25 else image), np.ascontiguousarray(fault)


def repaint(rng: np.random.Generator, image: Bytes) -> Bytes:
    """Other materials: channels mixed and sent through random smooth curves, (H, W, 3) uint8.

    Fourteen kinds show few materials; a detector must not learn them by heart.
    """
    mixed = np.eye(3) + rng.normal(0, 0.3, (3, 3))
    mixed /= np.abs(mixed).sum(1, keepdims=True)
    knots, levels = np.linspace(0, 255, 6), np.arange(256)
    strength = rng.uniform(0.2, 0.9)
    common = rng.uniform(0, 255, 6)
    curves = np.empty((256, 3), np.uint8)
    for channel in range(3):
        wanted = np.clip(common + rng.normal(0, 40, 6), 0, 255)
        curve = np.interp(levels, knots, strength * wanted + (1 - strength) * knots)
        curves[:, channel] = cv2.GaussianBlur(curve[None].astype(np.float32), (41, 1), 12)[0]
    return cv2.LUT(cv2.transform(image, mixed), curves[None])


def recolour(rng: np.random.Generator, image: Bytes) -> Bytes:
    """Another exposure, contrast, tint, at times other channels, noise or blur: (H, W, 3) uint8."""
    if rng.random() < 0.2:
        image = image[..., rng.permutation(3)]
    tint = rng.uniform(0.8, 1.2) * (1 + rng.normal(0, 0.06, 3))
    levels = np.clip((np.arange(256)[:, None] / 255) ** rng.uniform(0.8, 1.25) * tint * 255, 0, 255).astype(np.uint8)
    pixels = cv2.LUT(np.ascontiguousarray(image), levels[None])
    if rng.random() < 0.15:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 0.9))
    if rng.random() < 0.3:
        grain = np.empty(pixels.shape, np.float32)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(grain, 0, float(rng.uniform(1, 5)))
        pixels = cv2.add(pixels, grain, dtype=cv2.CV_8U)
    return pixels


def balanced(rng: np.random.Generator, labels: Bytes, kinds: Bytes, count: int) -> NDArray[np.intp]:
    """Indices of ``count`` crops: half with a defect, a few of the bare table, the rest sound; kinds alike often."""
    picked = []
    for n in range(count):
        if n % 2:
            group = labels_of(labels, kinds, int(rng.integers(len(KINDS_A))), True)
        elif n % 32 == 0:
            group = np.flatnonzero(labels == EMPTY)
        else:
            group = labels_of(labels, kinds, int(rng.integers(len(KINDS_A))), False)
        picked.append(group[int(rng.integers(len(group)))])
    return np.array(picked)


def labels_of(labels: Bytes, kinds: Bytes, kind: int, anomalous: bool) -> NDArray[np.intp]:
    """Indices of the crops of one kind, with or without a defect."""
    return np.flatnonzero((kinds == kind) & ((labels > 0) == anomalous))


def whitening(images: Bytes, side: int, width: int, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Patch projection to start from: the ``width`` strongest principal components of patches, made equally strong.

    Random projections see little but a patch's brightness, and a transformer this small is slow to undo that.

    Args:
        images: (N, H, W, 3); side: of a patch; mean, std: (3, 1, 1) of the model's normalisation, 0 to 255.

    Returns:
        (width, 3, side, side) float32.
    """
    rng = np.random.default_rng(0)
    patches = []
    for number in np.sort(rng.integers(len(images), size=1500)):
        for _ in range(6):
            top, left = (int(rng.integers(size - side)) for size in images.shape[1:3])
            patches.append(images[number, top : top + side, left : left + side])
    pixels = (torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() - mean) / std
    flat = pixels.flatten(1)
    strength, directions = torch.linalg.eigh(flat.T @ flat / len(flat))
    chosen = directions[:, -width:] / (strength[-width:] + 1e-3).sqrt()
    return chosen.T.reshape(width, 3, side, side).contiguous()
