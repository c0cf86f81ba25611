"""Anomalous regions as COCO JSON (Lin et al., "Microsoft COCO: Common Objects in Context", 2014)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import maximum

from zsad.export.stream import each_map
from zsad.filesystem import join
from zsad.storage import write_atomically
from zsad.storage.files import Sink
from zsad.storage.rle import encode_runs

ANNOTATIONS = "annotations.json"
NO_CATEGORY = "anomaly"
"""Name of the category where the dataset names no class."""


def write_coco(output: str, rows: pd.DataFrame, target: str) -> str:
    """``annotations.json``: one annotation per 8-connected region at or above the pixel threshold.

    ``images`` hold ``file_name`` (the image id), size, ``pred_score`` and ``pred_label``; annotations
    ``segmentation`` (compressed RLE), ``bbox`` (x, y, width, height), ``area`` in pixels and ``score`` (the
    highest value of the map in the region). Images that could not be scored are left out.
    """
    counts: dict[str, int] = {}
    write_atomically(join(target, ANNOTATIONS), lambda sink: _write(output, rows, sink, counts))
    return f"{counts['annotations']} regions in {len(rows)} images, threshold {rows['rule'].iloc[0]}"


def _write(output: str, rows: pd.DataFrame, sink: Sink, counts: dict[str, int]) -> None:
    names = rows["category"].astype(object).where(rows["category"].notna(), NO_CATEGORY).astype(str)
    categories = {name: number for number, name in enumerate(sorted(names.unique()), start=1)}
    rows = rows.assign(number=np.arange(1, len(rows) + 1), category_number=names.map(categories))
    head = {
        "info": {"description": f"Anomalous regions, threshold {rows['rule'].iloc[0]}"},
        "categories": [
            {"id": number, "name": name, "supercategory": NO_CATEGORY} for name, number in categories.items()
        ],
    }
    sink.write(json.dumps(head)[:-1].encode())
    _write_list(sink, "images", (_image(row) for row in rows.itertuples(index=False)))
    regions = (region for found in each_map(output, rows, _regions) for region in found)
    numbered = ({"id": number, **region} for number, region in enumerate(regions, start=1))
    counts["annotations"] = _write_list(sink, "annotations", numbered)
    sink.write(b"}\n")


def _write_list(sink: Sink, name: str, items: Iterator[dict[str, Any]]) -> int:
    sink.write(f', "{name}": ['.encode())
    count = 0
    for count, item in enumerate(items, start=1):
        sink.write((",\n" if count > 1 else "\n").encode() + json.dumps(item).encode())
    sink.write(b"]")
    return count


def _image(row: Any) -> dict[str, Any]:
    return {
        "id": int(row.number),
        "file_name": row.image_id,
        "height": int(row.image_height),
        "width": int(row.image_width),
        "pred_score": round(float(row.pred_score), 7),
        "pred_label": None if pd.isna(row.pred_label) else int(row.pred_label),
    }


def _regions(row: Any, scores: NDArray[np.float16]) -> list[dict[str, Any]]:
    mask = scores >= np.float16(row.pixel_threshold)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    highest = maximum(scores.astype(np.float32), labels, np.arange(1, count))
    return [
        {
            "image_id": int(row.number),
            "category_id": int(row.category_number),
            "segmentation": {"size": list(labels.shape), "counts": counts},
            "bbox": stats[index, :4].tolist(),
            "area": int(stats[index, cv2.CC_STAT_AREA]),
            "iscrowd": 0,
            "score": round(float(highest[index - 1]), 7),
        }
        for index, counts in enumerate(_encode_labels(np.asarray(labels, np.int32), count), start=1)
    ]


def _encode_labels(labels: NDArray[np.int32], count: int) -> Iterator[str]:
    """The RLE of the labels 1 to ``count`` - 1, from one pass over the image: noise may have thousands of regions."""
    flat = labels.T.reshape(-1)
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    owner = flat[bounds[:-1]]
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(1, count + 1))
    for start, end in pairwise(first.tolist()):
        runs = order[start:end]
        edges = np.stack([bounds[runs], bounds[runs + 1]], axis=1).reshape(-1)
        zeros = np.array([0, flat.size])
        yield encode_runs(
            np.diff(np.concatenate((zeros[:1], edges, zeros[1:] if edges[-1] < flat.size else zeros[:0])))
        )
