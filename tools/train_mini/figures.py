"""The figures of the model card: the mini preset on a synthetic set, through the real pipeline.

``python -m tools.train_mini.figures --root SET --per-kind 30 --seed 4242`` draws the set of kinds B if it is not
there and prints every figure; ``--set section.field=value`` as for ``zsad score``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from tools.train_mini.data import bare_table
from tools.train_mini.words import (
    HELD_OUT_ANOMALOUS,
    HELD_OUT_NORMAL,
    NONSENSE_ANOMALOUS,
    NONSENSE_NORMAL,
    NONSENSE_PROMPTS,
    UNRELATED_ANOMALOUS,
    UNRELATED_NORMAL,
)
from zsad.config import Config, load_config
from zsad.datasets.synthetic import KINDS_B, write_synthetic_visa
from zsad.detector import Detector, as_item
from zsad.evaluation import PixelHistogram, sample_metrics
from zsad.projection import project
from zsad.steps.item import ImageItem
from zsad.steps.tile_maps import TileMaps
from zsad.steps.tile_scores import TileScores

Mask = NDArray[np.bool_]
STATES = {
    "held-out states": (HELD_OUT_NORMAL, HELD_OUT_ANOMALOUS),
    "unrelated states": (UNRELATED_NORMAL, UNRELATED_ANOMALOUS),
    "nonsense states": (NONSENSE_NORMAL, NONSENSE_ANOMALOUS),
}


def measure_kind(kind: str, root: str, per_kind: int, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Every figure of one kind; curves need both labels, so ``per_kind`` of each are read."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector = Detector.from_config(load_config("mini", None, list(overrides)))
    scorer = next(step for step in detector.steps if isinstance(step, TileScores))
    mapper = next(step for step in detector.steps if isinstance(step, TileMaps))
    others = {
        name: TileScores(scorer.model, _with_prompts(detector.config, normal_states=good, anomalous_states=bad))
        for name, (good, bad) in STATES.items()
    }
    silent = TileMaps(mapper.model, _with_prompts(detector.config, localising=NONSENSE_PROMPTS))
    labels: list[bool] = []
    scores: dict[str, list[float]] = {name: [] for name in ("score", "local contrast", *others)}
    pixels = {name: PixelHistogram() for name in ("map", "nonsense prompts", "local contrast")}
    overlaps: dict[str, list[float]] = {"foreground": [], "dis": []}
    sources: list[str] = []
    milliseconds: list[float] = []
    data = Path(root) / kind / "Data"
    for folder in ("Normal", "Anomaly"):
        for number in range(per_kind):
            item = as_item(str(data / "Images" / folder / f"{number:03d}.JPG"), kind.replace("_", " "))
            detector.run([item])
            if item.failure is not None or item.image is None or item.score is None:
                raise RuntimeError(f"{item.path}: {item.failure}")
            truth = _read(data / "Foreground" / folder / f"{number:03d}.png")
            fault = _read(data / "Masks" / folder / f"{number:03d}.png") if folder == "Anomaly" else None
            labels.append(fault is not None)
            scores["score"].append(item.score)
            for name, step in others.items():
                twin = replace(item, stage_ms={})
                step([twin])
                scores[name].append(twin.score or 0.0)
            pixels["map"].update(_map(item), fault)
            twin = replace(item, stage_ms={})
            silent([twin])
            pixels["nonsense prompts"].update(_map(twin), fault)
            contrast = _local_contrast(item.image, truth)
            scores["local contrast"].append(float(contrast.max()))
            pixels["local contrast"].update(contrast, fault)
            overlaps["foreground"].append(_iou(item.foreground, truth))
            overlaps["dis"].append(_iou(item.dis_mask, truth))
            sources.append(item.foreground_source or "")
            milliseconds.append(sum(item.stage_ms.values()))
    empty = []
    for number in range(3):
        bare = as_item(bare_table(np.random.default_rng([number, len(kind)])), kind.replace("_", " "))
        detector.run([bare])
        empty.append(bare.score or 0.0)
    share = float(np.mean(labels))
    row: dict[str, Any] = {"kind": kind, "floor": 2 * share / (1 + share)}
    for name, values in scores.items():
        for metric, value in sample_metrics(values, labels).items():
            row[f"{name} {metric}"] = value.value
    for name, histogram in pixels.items():
        for metric, value in histogram.compute().items():
            row[f"{name} pixel {metric}"] = value.value
    row |= {f"{name} IoU": float(np.mean(values)) for name, values in overlaps.items()}
    row["foreground of SAM"] = sources.count("sam+dis") / len(sources)
    median = float(np.median([s for s, bad in zip(scores["score"], labels, strict=True) if not bad]))
    row["bare tables below median normal"] = float(np.mean([value < median for value in empty]))
    row["ms per image"] = float(np.median(milliseconds))
    return row


def main() -> None:
    """Measure all kinds B and print a table and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder of the set; drawn if missing")
    parser.add_argument("--per-kind", type=int, default=30)
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS_B))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--json", help="where to write all figures of all kinds")
    given = parser.parse_args()
    if not (Path(given.root) / "split_csv" / "1cls.csv").is_file():
        write_synthetic_visa(
            given.root, normal=given.per_kind, anomalous=given.per_kind, seed=given.seed, workers=given.workers
        )
    work = partial(measure_kind, root=given.root, per_kind=given.per_kind, overrides=tuple(given.overrides))
    with ProcessPoolExecutor(given.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = []
        for row in pool.map(work, given.kinds):
            rows.append(row)
            print(
                f"{row['kind']:14s} AUROC {row['score auroc']:.3f}  F1-max {row['score f1_max']:.3f}  "
                f"pixel AUROC {row['map pixel auroc']:.3f}  F1-max {row['map pixel f1_max']:.3f}  "
                f"foreground {row['foreground IoU']:.3f} (DIS {row['dis IoU']:.3f})  {row['ms per image']:.0f} ms",
                flush=True,
            )
    print()
    for name in rows[0]:
        if name != "kind":
            print(f"{name:45s} {np.mean([row[name] for row in rows]):.4f}")
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1), "utf-8")


def _with_prompts(config: Config, **fields: tuple[str, ...]) -> Config:
    return config.model_copy(update={"prompts": config.prompts.model_copy(update=fields)})


def _map(item: ImageItem) -> NDArray[np.float16]:
    boxes = np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in item.tiles])
    return project(item.tile_maps, boxes, item.height, item.width, None)  # type: ignore[arg-type]


def _local_contrast(image: NDArray[np.uint8], foreground: Mask) -> NDArray[np.float16]:
    """The trivial baseline: distance from the blurred picture, inside the true foreground."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    spread = max(image.shape) / 80
    contrast = cv2.GaussianBlur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), spread)), (0, 0), 1.5)
    inside = cv2.erode(foreground.astype(np.uint8), np.ones((9, 9), np.uint8))
    return (contrast * inside).astype(np.float16)


def _read(path: Path) -> Mask:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0


def _iou(found: Mask | None, truth: Mask) -> float:
    if found is None:
        return 0.0
    return float(np.count_nonzero(found & truth) / max(np.count_nonzero(found | truth), 1))


if __name__ == "__main__":
    main()
