"""Anomalous regions as COCO JSON (Lin et al., "Microsoft COCO: Common Objects in Context", 2014)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import maximum

from zsad.export.regions import Selection, regions_of
from zsad.export.stream import each_map
from zsad.filesystem import join
from zsad.storage import write_atomically
from zsad.storage.files import Sink
from zsad.storage.rle import encode_runs
from zsad.text import count

ANNOTATIONS = "annotations.json"
NO_CATEGORY = "anomaly"
"""Name of the category where the dataset names no class."""
_SMALL = 10
"""Pixels below which a region is more likely noise than a defect: what is said of them is a hint."""


def write_coco(output: str, rows: pd.DataFrame, target: str, selection: Selection) -> str:
    """``annotations.json``: one annotation per 8-connected region at or above the pixel threshold, as ``selection`` says.

    ``images`` hold ``file_name`` (the image id), size, ``pred_score`` and ``pred_label``; annotations
    ``segmentation`` (compressed RLE), ``bbox`` (x, y, width, height), ``area`` in pixels and ``score`` (the
    highest value of the map in the region). Images that could not be scored are left out.
    """
    counts: Counter[str] = Counter()
    write_atomically(join(target, ANNOTATIONS), lambda sink: _write(output, rows, sink, selection, counts))
    lines = [f"{count(counts['all'], 'region')} in {count(len(rows), 'image')}, threshold {rows['rule'].iloc[0]}"]
    if counts["small"]:
        lines.append(
            f"{count(counts['small'], 'region has', 'regions have')} fewer than {_SMALL} pixels; "
            f"--min-area {_SMALL} leaves such regions out."
        )
    if counts["unflagged"]:
        lines.append(
            f"{count(counts['unflagged'], 'region lies', 'regions lie')} in images that are not flagged; "
            "--flagged-only leaves these out."
        )
    return "\n".join(lines)


def _write(output: str, rows: pd.DataFrame, sink: Sink, selection: Selection, counts: Counter[str]) -> None:
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
    flagged = set(rows.loc[rows["pred_label"] == 1, "number"])

    def numbered() -> Iterator[dict[str, Any]]:
        for found in each_map(output, rows, partial(_annotations, selection=selection)):
            for annotation in found:
                counts["all"] += 1
                counts["small"] += annotation["area"] < _SMALL
                counts["unflagged"] += annotation["image_id"] not in flagged
                yield {"id": counts["all"], **annotation}

    _write_list(sink, "annotations", numbered())
    sink.write(b"}\n")


def _write_list(sink: Sink, name: str, items: Iterator[dict[str, Any]]) -> None:
    sink.write(f', "{name}": ['.encode())
    for number, item in enumerate(items):
        sink.write((",\n" if number else "\n").encode() + json.dumps(item).encode())
    sink.write(b"]")


def _image(row: Any) -> dict[str, Any]:
    return {
        "id": int(row.number),
        "file_name": row.image_id,
        "height": int(row.image_height),
        "width": int(row.image_width),
        "pred_score": round(float(row.pred_score), 7),
        "pred_label": None if pd.isna(row.pred_label) else int(row.pred_label),
    }


def _annotations(row: Any, scores: NDArray[np.float16], selection: Selection) -> list[dict[str, Any]]:
    labels, boxes, areas = regions_of(row, scores, selection)
    highest = maximum(scores.astype(np.float32), labels, np.arange(1, len(areas) + 1))
    return [
        {
            "image_id": int(row.number),
            "category_id": int(row.category_number),
            "segmentation": {"size": list(labels.shape), "counts": counts},
            "bbox": box.tolist(),
            "area": int(area),
            "iscrowd": 0,
            "score": round(float(score), 7),
        }
        for counts, box, area, score in zip(_encode_labels(labels, len(areas) + 1), boxes, areas, highest, strict=True)
    ]


def _encode_labels(labels: NDArray[np.int32], stop: int) -> Iterator[str]:
    """The RLE of the labels 1 to ``stop`` - 1, from one pass over the image: noise may have thousands of regions."""
    flat = labels.T.reshape(-1)
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    owner = flat[bounds[:-1]]
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(1, stop + 1))
    for start, end in pairwise(first.tolist()):
        runs = order[start:end]
        edges = np.stack([bounds[runs], bounds[runs + 1]], axis=1).reshape(-1)
        zeros = np.array([0, flat.size])
        yield encode_runs(
            np.diff(np.concatenate((zeros[:1], edges, zeros[1:] if edges[-1] < flat.size else zeros[:0])))
        )
