"""Turn the paper's choices off one at a time and measure what each is worth on the synthetic inspection set.

    python -m benchmarks.ablation --per-kind 10 --seed 7 --output benchmarks/ABLATION.md

The kinds of parts are those that the mini models never saw in training. Every variant shares the models and, where
it may, the results of the earlier steps.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from zsad.config import Config, load_config
from zsad.datasets import load_manifest
from zsad.datasets.synthetic import KINDS_B, render, sample_rng, write_synthetic_visa
from zsad.detector import build_steps
from zsad.evaluation import PixelHistogram, sample_metrics
from zsad.filesystem import read_bytes
from zsad.images import decode, decode_mask
from zsad.projection import project
from zsad.steps.item import ImageItem

VARIANTS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("the paper's method", (), 0),
    ("DIS mask alone, no SAM", ("foreground.source=dis",), 0),
    ("whole image, no instance tiles", ("foreground.source=full_image",), 0),
    ("mean embedding instead of mean similarity", ("tile_level.prompt_pooling=mean_embedding",), 2),
    ("WinCLIP's states only", ("prompts.states=winclip",), 2),
    ("mean of all components", ("aggregation.top_fraction=1.0",), 2),
    ("maximum over components", ("aggregation.top_fraction=0.0",), 2),
    ("arithmetic instead of harmonic mean", ("pixel_level.prompt_average=arithmetic",), 3),
    ("maximum over prompts", ("pixel_level.prompt_average=max",), 3),
    ("no scaling by the tile score", ("aggregation.tile_scaling=false",), 3),
    ("sample-level prompts to localise", ("pixel_level.prompts=sample",), 3),
)
"""(name, overrides, first step whose result changes)."""

METRICS = (("sample", "f1_max"), ("sample", "auroc"), ("pixel", "f1_max"), ("pixel", "auroc"))


@dataclass(frozen=True)
class Picture:
    """One image of the set with its truth."""

    item: ImageItem
    category: str
    label: int
    mask: NDArray[np.bool_] | None
    foreground: NDArray[np.bool_]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure every variant, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-kind", type=int, default=10, help="normal and anomalous images of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = write_synthetic_visa(
            Path(folder), normal=options.per_kind, anomalous=options.per_kind, seed=options.seed
        )
        text = report(root, options.per_kind, options.seed)
    print(text)
    if options.output:
        options.output.write_text(f"# Ablation\n\n`python -m benchmarks.ablation`: {text}\n", "utf-8")


def report(root: Path, per_kind: int, seed: int) -> str:
    """The table as Markdown."""
    config = load_config("mini")
    pictures = read_pictures(root, config)
    steps = build_steps(config)
    stages: list[list[ImageItem]] = [[picture.item for picture in pictures]]
    for step in steps[:-1]:
        items = [copy.copy(item) for item in stages[-1]]
        step(items)
        stages.append(items)
    rows = [("local contrast in the true foreground (trivial)", contrast_baseline(pictures))]
    for name, overrides, first in VARIANTS:
        start = time.monotonic()
        variant = load_config("mini", None, list(overrides))
        rows.append((name, measure(steps, variant, stages[first], first, pictures)))
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    reference = rows[1][1]
    lines = [
        f"Preset mini, {len(pictures)} images ({per_kind} normal and {per_kind} anomalous of each of "
        f"{len({p.category for p in pictures})} kinds), seed {seed}, native resolution, percent, mean over kinds; "
        "in brackets the change against the first variant.",
        "",
        "| variant | sample F1-max | sample AUROC | pixel F1-max | pixel AUROC |",
        "|---|---|---|---|---|",
    ]
    for name, values in rows:
        cells = [
            f"{100 * values[key]:.1f}"
            + ("" if values is reference else f" ({100 * (values[key] - reference[key]):+.1f})")
            for key in METRICS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "Foreground IoU with the true mask, the same normal pictures with and without what the objects cast:",
        "",
    ]
    lines += ["| | SAM and DIS | DIS alone | pictures whose mask comes from SAM |", "|---|---|---|---|"]
    for shadows in (True, False):
        joint, alone, share = foreground_iou(steps[:2], per_kind, seed, shadows)
        lines.append(
            f"| {'with' if shadows else 'without'} shadows | {joint:.3f} | {alone:.3f} | {100 * share:.1f} % |"
        )
    return "\n".join(lines)


def foreground_iou(steps: Sequence[Any], per_kind: int, seed: int, shadows: bool) -> tuple[float, float, float]:
    """(mean IoU of the foreground of the first two steps, of the DIS mask alone, share of pictures with a mask of SAM's)."""
    found = []
    for kind in KINDS_B:
        for number in range(per_kind):
            sample = render(kind, sample_rng(kind, number, seed, False), False, shadows=shadows)
            item = ImageItem(kind, sample.noun, image=sample.image)
            for step in steps:
                step([item])
            if item.failure is not None:
                raise RuntimeError(f"{kind} {number}: {item.failure}")
            found.append(
                (
                    _iou(item.foreground, sample.foreground),
                    _iou(item.dis_mask, sample.foreground),
                    item.foreground_source == "sam+dis",
                )
            )
    joint, alone, share = np.mean(found, axis=0)
    return float(joint), float(alone), float(share)


def _iou(found: NDArray[np.bool_] | None, truth: NDArray[np.bool_]) -> float:
    if found is None:
        return 0.0
    return float(np.count_nonzero(found & truth) / max(np.count_nonzero(found | truth), 1))


def read_pictures(root: Path, config: Config) -> list[Picture]:
    """All images of the set, decoded."""
    pictures = []
    for row in load_manifest("visa", str(root)).to_pylist():
        path = Path(row["image_path"])
        image = decode(read_bytes(str(path)), config.images.max_pixels)
        truth = Path(str(path).replace("/Images/", "/Foreground/")).with_suffix(".png")
        pictures.append(
            Picture(
                item=ImageItem(str(path), row["class_name"], image=image),
                category=row["category"],
                label=row["gt_label"],
                mask=decode_mask(read_bytes(row["mask_path"]), config.images.max_pixels) if row["mask_path"] else None,
                foreground=decode_mask(read_bytes(str(truth)), config.images.max_pixels),
            )
        )
    return pictures


def measure(
    steps: Sequence[Any], config: Config, before: Sequence[ImageItem], first: int, pictures: Sequence[Picture]
) -> dict[tuple[str, str], float]:
    """Run the steps from ``first`` on with another configuration, and evaluate."""
    chain = [copy.copy(step) for step in steps]
    for step in chain:
        step.config = config
        for cache in ("_pooled", "_embedded"):
            if hasattr(step, cache):
                setattr(step, cache, {})
    items = [copy.copy(item) for item in before]
    maps = []
    for item in items:
        for step in chain[first:]:
            step([item])
        if item.failure is not None or item.tile_maps is None:
            raise RuntimeError(f"{item.path}: {item.failure}")
        boxes = np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in item.tiles])
        maps.append(project(item.tile_maps, boxes, item.height, item.width))
        item.tile_maps = None
    return evaluate(pictures, [item.score or 0.0 for item in items], maps)


def contrast_baseline(pictures: Sequence[Picture]) -> dict[tuple[str, str], float]:
    """Local contrast: deviation from the blurred image inside the true foreground; its maximum as the score."""
    maps = []
    for picture in pictures:
        image = picture.item.image
        if image is None:
            raise RuntimeError(f"{picture.item.path} is not decoded")
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        contrast = cv2.GaussianBlur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 8)), (0, 0), 2)
        maps.append((contrast * picture.foreground).astype(np.float16))
    return evaluate(pictures, [float(m.max()) for m in maps], maps)


def evaluate(
    pictures: Sequence[Picture], scores: Sequence[float], maps: Sequence[NDArray[np.float16]]
) -> dict[tuple[str, str], float]:
    """Mean over the kinds of each metric."""
    histograms: dict[str, PixelHistogram] = defaultdict(PixelHistogram)
    by_kind: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for picture, score, anomaly_map in zip(pictures, scores, maps, strict=True):
        histograms[picture.category].update(anomaly_map, picture.mask)
        by_kind[picture.category].append((score, picture.label))
    results: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, pairs in by_kind.items():
        values = np.array(pairs)
        for level, metrics in (
            ("sample", sample_metrics(values[:, 0], values[:, 1].astype(int))),
            ("pixel", histograms[kind].compute()),
        ):
            for name in ("f1_max", "auroc"):
                results[level, name].append(_defined(metrics[name].value))
    return {key: float(np.mean(values)) for key, values in results.items()}


def _defined(value: float | None) -> float:
    if value is None:
        raise RuntimeError("a metric is undefined: every kind needs normal and anomalous images")
    return value


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
