"""The report of 5,000 images: time to build, time to refresh, bytes that the first page loads.

python -m benchmarks.report [--rows 5000] [--keep FOLDER]

The rows are synthetic: 56 photographs of the inspection set, each with four tile maps of 352 x 352, a
foreground and tiles, stand for many rows each under names and scores of their own, written as a scoring job
writes them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from scipy.ndimage import gaussian_filter

from zsad.datasets.synthetic import write_synthetic_visa
from zsad.projection import project
from zsad.report.site import build_report
from zsad.storage import SCORED_SCHEMA, encode_map, encode_rle, part_name, write_part

SIDE, PER_PART, PAGE = 352, 250, 48
BAR_SECONDS, BAR_BYTES = 90, 3_000_000


def write_run(folder: Path, rows: int) -> str:
    """A run of so many rows under ``folder``; returns its output folder."""
    images = folder / "images"
    write_synthetic_visa(images, normal=2, anomalous=2, seed=0)
    photographs = sorted(images.glob("*/Data/Images/*/*.JPG"))
    rng = np.random.default_rng(0)
    templates = [_template(photograph, rng) for photograph in photographs]
    output = str(folder / "out")
    for part, start in enumerate(range(0, rows, PER_PART)):
        numbers = range(start, min(rows, start + PER_PART))
        scored = [_row(number, templates[number % len(templates)], rng) for number in numbers]
        write_part(output, part_name("benchmark", part), pa.Table.from_pylist(scored, SCORED_SCHEMA))
    return output


def _template(photograph: Path, rng: np.random.Generator) -> dict[str, Any]:
    with Image.open(photograph) as image:
        width, height = image.size
    anomalous = photograph.parent.name == "Anomaly"
    logits = 25 * gaussian_filter(rng.standard_normal((4, SIDE, SIDE)), (0, 12, 12)) - 3 + anomalous
    tile_maps = (1 / (1 + np.exp(-logits))).astype(np.float16)
    x, y = width // 2, height // 2
    boxes = np.array([[0, 0, x, y], [x, 0, width, y], [0, y, x, height], [x, y, width, height]])
    rows, columns = np.ogrid[:height, :width]
    foreground = ((rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2) < 0.2
    anomaly_map = project(tile_maps, boxes, height, width)
    codec, data = encode_map(tile_maps, anomaly_map)
    root = photograph.parents[2]
    return {
        "image_path": str(photograph),
        "category": root.parent.name,
        "class_name": root.parent.name.replace("_", " "),
        "split": "test",
        "gt_label": int(anomalous),
        "mask_path": str(root / "Masks" / "Anomaly" / f"{photograph.stem}.png") if anomalous else None,
        "image_height": height,
        "image_width": width,
        "status": "ok",
        "anomaly_map_max": float(anomaly_map.max()),
        "anomaly_map_mean": float(anomaly_map.astype(np.float32).mean()),
        "foreground_source": "sam+dis",
        "foreground_fraction": float(foreground.mean()),
        "num_components": 4,
        "file_size": photograph.stat().st_size,
        "file_mtime": photograph.stat().st_mtime_ns,
        "fingerprint": "benchmark",
        "map_codec": codec,
        "map_data": data,
        "map_tile_boxes": [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in boxes.tolist()],
        "map_masked": False,
        "map_foreground_rle": encode_rle(foreground),
    }


def _row(number: int, template: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    scores = np.clip(rng.normal(0.55 if template["gt_label"] else 0.45, 0.08, 4), 0, 1).astype(float).tolist()
    tiles = [box | {"component": i, "score": scores[i]} for i, box in enumerate(template["map_tile_boxes"])]
    own = {"image_id": f"{template['category']}/{number:06d}.jpg", "pred_score": max(scores)}
    return template | own | {"component_scores": scores, "tiles": tiles}


def first_page_bytes(report: Path) -> int:
    """What a browser reads when the page opens: page, assets, index, rows and pictures of the first cards."""
    files = [report / "index.html", *(report / "assets").iterdir(), report / "data" / "index.js"]
    files.append(report / "data" / "rows-0.js")
    pictures = sorted((p for p in report.glob("pictures/*/*.jpg") if "large" not in p.name), key=os.path.getsize)
    # The cards of the first page are not known here, so the largest pictures stand for them.
    files += [p for p in pictures if "photo" in p.name][-PAGE:] + [p for p in pictures if "heat" in p.name][-PAGE:]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="folder for the run and its report; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        output = str(folder / "out") if (folder / "out").exists() else write_run(folder, given.rows)
        for name in ("build", "refresh"):
            wall, cpu = time.monotonic(), time.process_time()
            report = build_report(output)
            wall, cpu = time.monotonic() - wall, time.process_time() - cpu
            goal = f" (goal {BAR_SECONDS} s: {'met' if wall <= BAR_SECONDS else 'missed'})" if name == "build" else ""
            print(f"{name}: {report.images:,} images, {wall:.1f} s wall, {cpu:.1f} s CPU{goal}", flush=True)
        size = first_page_bytes(Path(report.page).parent)
        print(f"first page: {size / 1e6:.2f} MB (goal 3 MB: {'met' if size <= BAR_BYTES else 'missed'})")


if __name__ == "__main__":
    main()
