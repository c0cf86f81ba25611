"""Training pictures, drawn once and kept as uint8 arrays: whole scenes, and the crops that tiling would make."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tools.train_mini.random_kinds import random_kind
from zsad.config import TilingConfig
from zsad.datasets.synthetic import DEFECTS, KINDS_A, render, sample_rng
from zsad.datasets.synthetic.rendering import render_kind
from zsad.datasets.synthetic.scene import photograph, table
from zsad.images import decode
from zsad.method.tiling import Tile, crop, tile_image
from zsad.resize import Padded

SCENE = 320
CROP = 336
MARGIN = 1.15
"""Cached crops are larger than the tiles by this factor, so that training can shift and scale within them."""
MIN_SIDE = 128
EMPTY = len(DEFECTS) + 1
"""Label of a crop of the bare table."""
TABLE = len(KINDS_A)
"""Kind of a crop of the bare table; random kind n comes as ``TABLE + 1 + n``."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Scenes:
    """Whole pictures of kinds A, memory-mapped.

    Attributes:
        scenes: (N, 320, 320, 3) as IS-Net sees them, aspect squashed; coverage: (N, 320, 320) foreground.
        instances: (N, 320, 320) objects counted from 1.
    """

    scenes: Bytes
    coverage: Bytes
    instances: Bytes


@dataclass(frozen=True)
class Crops:
    """Tiles of pictures of kinds A and of random kinds, memory-mapped.

    Attributes:
        crops: (M, 336, 336, 3); crop_faults: (M, 336, 336) defect coverage, 0 to 255.
        crop_labels: (M,) 0 normal, 1 + index in DEFECTS, or EMPTY.
        crop_kinds: (M,) uint16, index in KINDS_A, TABLE, or TABLE + 1 + number of a random kind.
    """

    crops: Bytes
    crop_faults: Bytes
    crop_labels: Bytes
    crop_kinds: NDArray[np.uint16]


Job = tuple[str, int, int, bool]
"""(kind, or "" for a bare table; number of the picture; seed; anomalous)"""


def prepare_scenes(folder: Path, seed: int, workers: int, normal: int = 110, anomalous: int = 260) -> Scenes:
    """Pictures of kinds A for IS-Net and SAM, drawn into ``folder`` or reused.

    Args:
        seed: of the pictures; workers: processes; normal, anomalous: pictures per kind.
    """
    jobs = [(kind, n, seed, bad) for n in range(max(normal, anomalous)) for kind in KINDS_A for bad in (False, True)]
    jobs = [job for job in jobs if job[1] < (anomalous if job[3] else normal)]
    jobs += [("", n, seed, False) for n in range(len(jobs) // 20)]
    return Scenes(**_drawn(folder / f"scenes-{seed}-{normal}-{anomalous}", jobs, _scene, workers))


def prepare_crops(
    folder: Path, seed: int, workers: int, random_kinds: int = 2500, normal: int = 30, anomalous: int = 60
) -> Crops:
    """Tiles for CLIP and CLIPSeg, drawn into ``folder`` or reused.

    Args:
        seed: of the pictures; workers: processes; random_kinds: kinds of one normal and three anomalous pictures;
        normal, anomalous: pictures per kind A.
    """
    jobs = [(f"{number}", n, seed, n > 0) for number in range(random_kinds) for n in range(4)]
    jobs += [(kind, n, seed, False) for n in range(normal) for kind in KINDS_A]
    jobs += [(kind, n, seed, True) for n in range(anomalous) for kind in KINDS_A]
    jobs += [("", n, seed, False) for n in range(len(jobs) // 40)]
    return Crops(**_drawn(folder / f"crops-{seed}-{random_kinds}-{normal}-{anomalous}", jobs, _tiles, workers))


def _drawn(target: Path, jobs: list[Job], draw: Callable[[Job], dict[str, Any]], workers: int) -> dict[str, Any]:
    """Arrays whose rows ``draw`` returns, stored as they come: all of them would not fit in memory."""
    if not (target / "done").exists():
        target.mkdir(parents=True, exist_ok=True)
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        counts: dict[str, int] = {}
        files: dict[str, Any] = {}
        context = multiprocessing.get_context("spawn")
        with ExitStack() as stack:
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context, initializer=_single_threaded))
            for part in pool.map(draw, jobs, chunksize=16):
                for field, rows in part.items():
                    if field not in files:
                        files[field] = stack.enter_context(open(target / f"{field}.bin", "wb"))
                        shapes[field] = rows.dtype, rows.shape[1:]
                    files[field].write(np.ascontiguousarray(rows).data)
                    counts[field] = counts.get(field, 0) + len(rows)
        listing = {field: [str(dtype), counts[field], *shape] for field, (dtype, shape) in shapes.items()}
        (target / "done").write_text(json.dumps(listing), "utf-8")
    listing = json.loads((target / "done").read_text("utf-8"))
    return {
        field: np.memmap(target / f"{field}.bin", np.dtype(dtype), "r", shape=tuple(shape))
        for field, (dtype, *shape) in listing.items()
    }


def _picture(job: Job) -> tuple[np.random.Generator, Bytes, Bytes, NDArray[np.bool_]]:
    """(generator, image, mask, foreground) of one photograph."""
    kind, number, seed, anomalous = job
    rng = sample_rng(kind, number, seed, anomalous)
    if not kind:
        image = bare_table(rng)
        return rng, image, np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.bool_)
    if kind.isdigit():
        long = int(np.exp(rng.uniform(np.log(350), np.log(900))))
        sample = render_kind(random_kind(int(kind)), rng, anomalous, long_side=long)
    else:
        sample = render(kind, rng, anomalous)
    return rng, sample.image, sample.mask, sample.foreground


def _scene(job: Job) -> dict[str, Any]:
    _, image, _, foreground = _picture(job)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    scene = F.interpolate(pixels, (SCENE, SCENE), mode="bilinear", align_corners=False)[0]
    labels = cv2.connectedComponents(foreground.view(np.uint8), connectivity=8)[1]
    return {
        "scenes": scene.to(torch.uint8).permute(1, 2, 0).numpy()[None],
        "coverage": _coverage(foreground, SCENE)[None],
        "instances": cv2.resize(labels.astype(np.uint8), (SCENE, SCENE), interpolation=cv2.INTER_NEAREST)[None],
    }


def _tiles(job: Job) -> dict[str, Any]:
    rng, image, mask, foreground = _picture(job)
    boxes = cv2.connectedComponentsWithStats(foreground.view(np.uint8), connectivity=8)[2][1:]
    kind = job[0]
    number = TABLE if not kind else TABLE + 1 + int(kind) if kind.isdigit() else KINDS_A.index(kind)
    sound = 2 if not (kind.isdigit() and job[3]) else 1
    return _crops(rng, image, mask, boxes[boxes[:, cv2.CC_STAT_AREA] >= 0.001 * mask.size], number, sound)


def bare_table(rng: np.random.Generator) -> Bytes:
    """A photograph (H, W, 3) of a table with nothing on it."""
    shape = (int(rng.integers(300, 900)), int(rng.integers(400, 1200)))
    scene = table(rng, shape, bool(rng.random() < 0.5))
    x, y = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[0]))
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    scene *= (1 + fall * (x * np.cos(angle) + y * np.sin(angle)))[..., None].astype(np.float32)
    return decode(photograph(rng, scene, int(rng.integers(72, 98))), 10_000_000)


def _crops(
    rng: np.random.Generator, image: Bytes, mask: Bytes, boxes: NDArray[np.int32], kind: int, most_sound: int
) -> dict[str, Any]:
    height, width = mask.shape
    corners = np.stack([boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], 1)
    # Some long objects are tiled along their axis, as those with many parts are.
    parts = np.where(rng.random(len(corners)) < 0.3, 99, 0)
    tiles = list(tile_image(corners, parts, height, width, MIN_SIDE, TilingConfig(max_tiles=12)).tiles)
    if kind == TABLE:
        side = int(min(height, width) * rng.uniform(0.3, 1.0))
        left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        tiles = [Tile(left, top, left + side, top + side, 0)]
    found: dict[str, list[Any]] = {"crops": [], "crop_faults": [], "crop_labels": []}
    sound = 0
    for number in rng.permutation(len(tiles)):
        tile = tiles[number]
        inside = _pixels(mask[..., None].repeat(3, 2), tile)[..., 0]
        label = EMPTY if kind == TABLE else int(inside.max())
        if label in (0, EMPTY):
            sound += 1
            if sound > most_sound:
                continue
        extra = int((tile.x1 - tile.x0) * (MARGIN - 1) / 2)
        wide = Tile(tile.x0 - extra, tile.y0 - extra, tile.x1 + extra, tile.y1 + extra, 0)
        seen = Image.fromarray(np.ascontiguousarray(_pixels(image, wide))).resize(
            (CROP, CROP), Image.Resampling.BICUBIC
        )
        found["crops"].append(np.asarray(seen))
        found["crop_faults"].append(_coverage(_pixels(mask[..., None].repeat(3, 2), wide)[..., 0] > 0, CROP))
        found["crop_labels"].append(np.uint8(label))
    shapes = {"crops": (CROP, CROP, 3), "crop_faults": (CROP, CROP), "crop_labels": ()}
    arrays = {
        field: np.stack(rows).astype(np.uint8) if rows else np.zeros((0, *shapes[field]), np.uint8)
        for field, rows in found.items()
    }
    return {**arrays, "crop_kinds": np.full(len(arrays["crop_labels"]), kind, np.uint16)}


def _pixels(image: NDArray[np.uint8], tile: Tile) -> NDArray[np.uint8]:
    """The tile, with its padding."""
    found = crop(image, tile)
    return found.array() if isinstance(found, Padded) else found


def _coverage(mask: NDArray[np.bool_], side: int) -> Bytes:
    return cv2.resize(mask.astype(np.uint8) * 255, (side, side), interpolation=cv2.INTER_AREA)


def _single_threaded() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def view(rng: np.random.Generator, crops: Crops, number: int, side: int, near: float) -> tuple[Bytes, Bytes]:
    """A cached crop as training sees it: shifted, scaled, turned, in other colours.

    Args:
        near: probability of a closer look, at a defect where there is one: what is learned large is found small.

    Returns:
        (image (side, side, 3) uint8, defect coverage (side, side) uint8).
    """
    close = bool(rng.random() < near)
    reach = int(CROP / MARGIN * (rng.uniform(0.3, 0.9) if close else rng.uniform(0.9, 1.1)))
    left, top = (int(rng.integers(CROP - reach + 1)) for _ in range(2))
    rows, columns = np.nonzero(crops.crop_faults[number] > 100) if close else (np.zeros(0), np.zeros(0))
    if len(rows):
        chosen = int(rng.integers(len(rows)))
        left = int(np.clip(columns[chosen] - reach * rng.uniform(0.15, 0.85), 0, CROP - reach))
        top = int(np.clip(rows[chosen] - reach * rng.uniform(0.15, 0.85), 0, CROP - reach))
    return _seen(rng, crops, number, (left, top, reach), side)


def window(rng: np.random.Generator, crops: Crops, number: int, side: int, whole: float) -> tuple[Bytes, Bytes]:
    """A part of a cached crop as training sees it, mostly with the rim of a defect where there is one.

    Local features learn several times faster on windows: most of a crop is sound, and all of it costs the same.

    Args:
        side: of the window, pixels, at the scale at which the whole tile would have ``whole`` pixels.

    Returns:
        (image (side, side, 3) uint8, defect coverage (side, side) uint8).
    """
    reach = min(int(CROP / MARGIN * side / whole), CROP)
    left, top = (int(rng.integers(CROP - reach + 1)) for _ in range(2))
    if rng.random() < 0.8:
        fault = (crops.crop_faults[number] > 100).astype(np.uint8)
        rows, columns = np.nonzero(fault - cv2.erode(fault, np.ones((3, 3), np.uint8)))
        if len(rows):
            chosen = int(rng.integers(len(rows)))
            left = int(np.clip(columns[chosen] - reach * rng.uniform(0.1, 0.9), 0, CROP - reach))
            top = int(np.clip(rows[chosen] - reach * rng.uniform(0.1, 0.9), 0, CROP - reach))
    return _seen(rng, crops, number, (left, top, reach), side)


def _seen(
    rng: np.random.Generator, crops: Crops, number: int, square: tuple[int, int, int], side: int
) -> tuple[Bytes, Bytes]:
    left, top, reach = square
    part = np.s_[top : top + reach, left : left + reach]
    how = cv2.INTER_AREA if reach > side else cv2.INTER_LINEAR
    image = cv2.resize(crops.crops[number][part], (side, side), interpolation=how)
    fault = cv2.resize(crops.crop_faults[number][part], (side, side), interpolation=how)
    turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
    image, fault = np.rot90(image, turns), np.rot90(fault, turns)
    if flip:
        image, fault = image[:, ::-1], fault[:, ::-1]
    image = np.ascontiguousarray(image)
    return recolour(rng, repaint(rng, image) if rng.random() < 0.25 else image), np.ascontiguousarray(fault)


def tensors(views: Sequence[tuple[Bytes, Bytes]], mean: torch.Tensor, std: torch.Tensor) -> tuple[Tensor, Tensor]:
    """Views as the model reads them.

    Args:
        mean, std: (3, 1, 1) of the model's normalisation, 0 to 255.

    Returns:
        (pixels (N, 3, S, S), defect coverage (N, S, S) in [0, 1]).
    """
    pixels = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2).float()
    return (pixels - mean) / std, torch.from_numpy(np.stack([fault for _, fault in views])).float() / 255


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


class Draw:
    """Batches of crops: every kind gives as many with a defect as sound ones, since only those are ever compared."""

    def __init__(self, crops: Crops, share: float = 0.2) -> None:
        """``share``: of the kinds A among the kinds drawn; the others are random ones."""
        labels, kinds = np.asarray(crops.crop_labels), np.asarray(crops.crop_kinds)
        self.share = share
        self.empty = np.flatnonzero(labels == EMPTY)
        order = np.argsort(kinds, kind="stable")
        starts = np.flatnonzero(np.diff(kinds[order], prepend=-1))
        groups = [(int(kinds[part[0]]), part) for part in np.split(order, starts[1:])]
        pairs = [(kind, part[labels[part] == 0], part[labels[part] > 0]) for kind, part in groups if kind != TABLE]
        pairs = [pair for pair in pairs if len(pair[1]) and len(pair[2])]
        self.own = [pair[1:] for pair in pairs if pair[0] < TABLE]
        self.random = [pair[1:] for pair in pairs if pair[0] > TABLE]

    def __call__(self, rng: np.random.Generator, count: int, sound: int, faulty: int) -> NDArray[np.intp]:
        """Indices of ``count`` crops: ``sound`` and then ``faulty`` ones of one kind, and so on with other kinds.

        One crop in 32 is the bare table in place of a sound one.
        """
        picked: list[int] = []
        while len(picked) < count:
            pool = self.own if rng.random() < self.share else self.random
            good, bad = pool[int(rng.integers(len(pool)))]
            picked += [*rng.choice(good, sound, len(good) < sound), *rng.choice(bad, faulty, len(bad) < faulty)]
        for place in range(0, count, 32):
            picked[place] = int(rng.choice(self.empty))
        return np.array(picked[:count])


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
