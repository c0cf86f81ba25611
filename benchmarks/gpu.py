"""P11: images per second of the four models on a GPU. Without one, the table says so.

The models have their real size and seeded weights, compute in bf16, and get what a worker hands them: eight photographs
of six tiles at once. Counted is the wall time of each stage from its inputs in memory to its result on the host, SAM's
resize and post-processing included; decoding, the other resizes and Ray are not. The rate is that of all stages at the same
time, each in a thread and as often, until the last one is done; the stages of an actor work at the same time too, but each
waits for the one before. What a stage takes alone is said as well. The DIS mask is one disc that covers a fifth of the image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from benchmarks import models
from benchmarks.pictures import photograph, six_tiles
from benchmarks.rows import Row
from zsad.config import Config, load_config
from zsad.method.tiling import crop
from zsad.models.device import to_host
from zsad.models.sam_mask_generator import MaskGenerator
from zsad.models.turns import Turns
from zsad.steps.instances import Instances
from zsad.steps.item import ImageItem
from zsad.steps.tile_maps import averaged

IMAGES, TILES, PROMPTS = 8, 6, 18
FOREGROUND = 0.2
FLOOR: Mapping[str, float] = MappingProxyType({"IS-Net": 0.43, "CLIP": 0.43, "CLIPSeg": 1.05})
"""Milliseconds per image that one H200 needs at the least in bf16: operations over its peak rate, computed."""
VARIANTS: tuple[tuple[str, str, str, float, float], ...] = (
    ("SAM ViT-B, full grid", "real", "none", 1000 / 55 - 1.91, 25.0),
    ("SAM ViT-B, points near the DIS mask", "real", "dis", 1000 / 100 - 1.91, 45.0),
    ("SAM ViT-H, full grid", "huge", "none", 7.91 + 14.8 + 0.3, 18.0),
)
"""SAM's part: name, size, ``foreground.point_pruning``, its floor in milliseconds, and the goal in images per second."""


def run(quick: bool) -> list[Row]:
    """P11 where there is a GPU; with ``quick`` the same code on small models, on whatever device there is."""
    if not torch.cuda.is_available() and not quick:
        goals = ", ".join(f">= {goal:g} images/s ({name})" for name, *_, goal in VARIANTS)
        return [
            Row(
                "P11",
                "one H200, bf16, 6 tiles",
                goals,
                "not measured on GPU here; an H200's figures are in benchmarks/GPU.md",
                None,
            )
        ]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    others = _others(quick, device)
    rows = []
    for name, size, pruning, floor, goal in VARIANTS[:2] if quick else VARIANTS:
        stages = {"SAM": _annotate(size, pruning, quick, device), **others}
        milliseconds = {stage: _per_image(work, device, 1 if quick else 5) for stage, work in stages.items()}
        rate, least = _together(stages, 1 if quick else 20), floor + sum(FLOOR.values())
        parts = ", ".join(f"{stage} {value:.2f}" for stage, value in milliseconds.items())
        share = f"; {100 * least * rate / 1000:.0f} % of the floor of {least:.1f} ms" if "H200" in where else ""
        rows.append(
            Row(
                "P11",
                f"{name}, {IMAGES} images of {TILES} tiles, {where}" + (", small models" if quick else ""),
                f">= {goal:g} images/s on one H200",
                f"{rate:.1f} images/s (one stage at a time {1000 / sum(milliseconds.values()):.1f}; ms per image: {parts}){share}",
                rate >= goal if "H200" in where and not quick else None,
            )
        )
    return rows


def _others(quick: bool, device: str) -> dict[str, Callable[[], Any]]:
    """IS-Net, CLIP and CLIPSeg, each as one call on the inputs of all images."""
    size = "small" if quick else "real"
    isnet = models.isnet_model(size, device, "bf16")
    clip = models.clip_model(size, device, "bf16")
    clipseg = models.clipseg_model(size, device, "bf16")
    images = [_photograph(index, quick) for index in range(IMAGES)]
    tiles = [crop(image, tile) for image in images for tile in six_tiles(*image.shape[:2])]
    whole = isnet.preprocess(images).split(isnet.batch_size)
    clip_tiles, clipseg_tiles = clip.preprocess(tiles), clipseg.preprocess(tiles)
    width = clipseg.module.config.projection_dim
    prompts = torch.randn(PROMPTS, width, generator=torch.Generator().manual_seed(0)).to(device)

    def segment() -> np.ndarray:
        return averaged(clipseg.logits(clipseg_tiles, prompts), [1.0] * PROMPTS, "harmonic")

    return {
        "IS-Net": lambda: [to_host(isnet.predict(one)) for one in whole],
        "CLIP": lambda: to_host(clip.embed_images(clip_tiles)),
        "CLIPSeg": segment,
    }


def _annotate(size: str, pruning: str, quick: bool, device: str) -> Callable[[], Any]:
    """The step after IS-Net: SAM on all images, foreground and tiles."""
    overrides = [f"foreground.point_pruning={pruning}", f"foreground.points_per_side={8 if quick else 32}"]
    config: Config = load_config("mini" if quick else "vand2023", None, overrides)
    network = models.sam_network("small" if quick else size)
    step = Instances(MaskGenerator(models.sam_model(network, True, device, "bf16")), config, 352)

    images = [_photograph(index, quick) for index in range(IMAGES)]
    masks = [_disc(*image.shape[:2]) for image in images]

    def annotate() -> list[ImageItem]:
        pairs = zip(images, masks, strict=True)
        items = [ImageItem(path="", class_name="part", image=image, dis_mask=mask) for image, mask in pairs]
        step(items)
        failures = [item.failure for item in items if item.failure is not None]
        if failures:
            raise RuntimeError(str(failures[0]))
        return items

    return annotate


def _disc(height: int, width: int) -> np.ndarray:
    """(height, width) bool, a disc in the middle of ``FOREGROUND`` of the pixels."""
    y, x = np.ogrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < FOREGROUND * height * width / np.pi


def _photograph(index: int, quick: bool) -> np.ndarray:
    return photograph(index, 300, 450) if quick else photograph(index)


def _per_image(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Milliseconds per image, the median of ``repeats`` after a first call that does not count."""
    work()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times)) / IMAGES


def _together(stages: Mapping[str, Callable[[], Any]], repeats: int) -> float:
    """Images per second of all stages at once, each ``repeats`` times."""
    turns = Turns()

    def work(stage: str, times: int) -> None:
        for _ in range(times):
            with turns.of(stage):
                stages[stage]()

    with ThreadPoolExecutor(len(stages)) as threads:
        list(threads.map(work, stages, [1] * len(stages)))
        start = time.perf_counter()
        list(threads.map(work, stages, [repeats] * len(stages)))
    return IMAGES * repeats / (time.perf_counter() - start)
