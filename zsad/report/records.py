"""Predictions -> what the page's scripts read: one compact index of all images, and chunks of rows on demand.

Pages that are opened from disk may load scripts but no other data, so every data file is a script of
one call: ``zsad.receive(name, value);``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from zsad.evaluation.parts import category_of
from zsad.report.drawing import Drawn, Scale, Subject

ROWS_PER_CHUNK, DETAILS_PER_CHUNK = 500, 50
UNKNOWN_LABEL = 2
_FAILED, _PHOTO, _HEAT, _LARGE = 4, 8, 16, 32
"""Bits of a flag above the label (0 normal, 1 anomalous, 2 unknown); report.js reads the same."""
_DRAWING_VERSION = 1


def rank(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows as the report numbers them: highest score first, equal scores by id, failed images last.

    Args:
        predictions: from ``zsad.read_predictions``.

    Returns:
        The same rows with ``category`` filled in, and ``pred_score`` null on failed images.
    """
    ranked = predictions.assign(
        category=category_of(predictions),
        pred_score=predictions["pred_score"].astype("float32").where(predictions["status"] == "ok"),
    )
    return ranked.sort_values(["pred_score", "image_id"], ascending=[False, True]).reset_index(drop=True)


def choose_large(ranked: pd.DataFrame, thresholds: dict[str, float], details: int) -> set[int]:
    """Numbers of the rows that get large pictures.

    Of each class: the ``details`` highest scores, and at the threshold of the class the ``details`` false
    positives and the ``details`` false negatives that are farthest from it.

    Args:
        ranked: from ``rank``.
        thresholds: threshold by class, for classes that have one.
        details: at least 0.
    """
    chosen: set[int] = set()
    scored = ranked[ranked["pred_score"].notna()]
    for category, rows in scored.groupby("category", sort=False):
        chosen.update(rows.index[:details])
        threshold = thresholds.get(str(category))
        if threshold is not None:
            flagged = rows["pred_score"] >= threshold
            chosen.update(rows[flagged & (rows["gt_label"] == 0)].index[:details])
            missed = rows[~flagged & (rows["gt_label"] == 1)].index
            chosen.update(missed[max(0, len(missed) - details) :])
    return chosen


def colour_scale(ranked: pd.DataFrame) -> Scale:
    """One scale for all heatmaps: from the typical pixel to nearly the highest value of the collection.

    Low is the median of the maps' means, high the 99th percentile of their maxima, so that one freak
    does not darken all others. Rounded, so that a few more images seldom change it.
    """
    means, maxima = ranked["anomaly_map_mean"].dropna(), ranked["anomaly_map_max"].dropna()
    if means.empty or maxima.empty:
        return Scale(0.0, 1.0)
    low, high = _two_digits(float(means.median())), _two_digits(float(maxima.quantile(0.99)))
    return Scale(low, high) if high > low else Scale(0.0, max(high, 1e-6))


def subjects(ranked: pd.DataFrame, large: set[int], scale: Scale) -> list[Subject]:
    """What is to be drawn, one per row; the key changes with everything that changes a picture."""
    columns = ["image_id", "image_path", "mask_path", "map_row_group", "fingerprint", "file_size", "file_mtime"]
    found = []
    for number, row in enumerate(ranked[[*columns, "pred_score", "error_stage"]].to_dict("records")):
        image_path, mask_path = _text(row["image_path"]) or "", _text(row["mask_path"])
        parts = [_DRAWING_VERSION, scale.low, scale.high, row["image_id"], image_path, mask_path]
        parts += [str(row[name]) for name in ("fingerprint", "file_size", "file_mtime", "pred_score")]
        key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=10).hexdigest()
        row_group = _integer(row["map_row_group"])
        unreadable = _text(row["error_stage"]) == "load"
        found.append(Subject(key, row["image_id"], image_path, mask_path, row_group, number in large, unreadable))
    return found


def index_script(ranked: pd.DataFrame, drawn: Sequence[Drawn], facts: dict[str, Any]) -> str:
    """``data/index.js``: for all images score, class and flags in a few bytes each, and ``facts``."""
    classes = sorted(ranked["category"].astype(str).unique())
    label = ranked["gt_label"].fillna(UNKNOWN_LABEL).to_numpy(np.uint8)
    failed = (ranked["status"] != "ok").to_numpy()
    flags = label | np.where(failed, _FAILED, 0).astype(np.uint8)
    for bit, values in (
        (_PHOTO, [item.photo for item in drawn]),
        (_HEAT, [item.heat for item in drawn]),
        (_LARGE, [item.large for item in drawn]),
    ):
        flags |= np.where(values, bit, 0).astype(np.uint8)
    numbers = pd.Categorical(ranked["category"].astype(str), categories=classes).codes
    content = facts | {
        "count": len(ranked),
        "classes": classes,
        "rowsPerChunk": ROWS_PER_CHUNK,
        "detailsPerChunk": DETAILS_PER_CHUNK,
        "scores": _base64(ranked["pred_score"].to_numpy("<f4")),
        "categories": _base64(numbers.astype("<u4")),
        "flags": _base64(flags),
    }
    return _script("index", content)


def row_scripts(ranked: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, content) of the scripts with what a card of the gallery shows."""
    columns = ranked[["image_id", "status", "error_type"]]
    return _chunks("rows", columns, list(zip(keys, _shown_parts(ranked), strict=True)), _card, ROWS_PER_CHUNK)


def detail_scripts(ranked: pd.DataFrame, drawn: Sequence[Drawn]) -> Iterator[tuple[str, str]]:
    """(name, content) of the scripts with what the detail view of an image shows."""
    return _chunks("details", ranked, drawn, _detail, DETAILS_PER_CHUNK)


def _card(row: Any, picture: tuple[str, int]) -> list[str | int | None]:
    key, parts = picture
    return [row.image_id, key, None if row.status == "ok" else _text(row.error_type) or "error", parts]


def _shown_parts(ranked: pd.DataFrame) -> list[int]:
    """How many parts of its id, from the end, tell each image from the others of its class."""
    ids = [str(image_id).split("/") for image_id in ranked["image_id"]]
    classes = ranked["category"].tolist()
    shown, left = [1] * len(ids), list(range(len(ids)))
    while left:
        names = [(classes[i], *ids[i][-shown[i] :]) for i in left]
        counts = Counter(names)
        left = [i for i, name in zip(left, names, strict=True) if counts[name] > 1 and shown[i] < len(ids[i])]
        for i in left:
            shown[i] += 1
    return shown


def _detail(row: Any, drawn: Drawn) -> dict[str, Any]:
    tiles = [
        [*(int(tile[name]) for name in ("x0", "y0", "x1", "y1", "component")), _round(tile["score"])]
        for tile in _sequence(row.tiles)
    ]
    stages = {name: round(float(ms), 1) for name, ms in (row.stage_ms or {}).items() if ms is not None}
    return {
        "path": _text(row.image_path),
        "noun": _text(row.class_name),
        "split": _text(row.split),
        "width": _integer(row.image_width),
        "height": _integer(row.image_height),
        "max": _round(row.anomaly_map_max),
        "mean": _round(row.anomaly_map_mean),
        "source": _text(row.foreground_source),
        "fraction": _round(row.foreground_fraction),
        "components": [_round(score) for score in _sequence(row.component_scores)],
        "tiles": tiles,
        "stage": _text(row.error_stage),
        "type": _text(row.error_type),
        "message": _text(row.error_message),
        "milliseconds": stages,
        "outline": drawn.outline,
        "truth": drawn.truth,
        "peak": drawn.peak,
        "problems": drawn.problems,
    }


def _chunks(
    kind: str, ranked: pd.DataFrame, others: Sequence[Any], value: Callable[[Any, Any], Any], size: int
) -> Iterator[tuple[str, str]]:
    """One script of ``size`` rows after the other: only one is in memory."""
    for number, start in enumerate(range(0, len(ranked), size)):
        rows = ranked.iloc[start : start + size].itertuples(index=False)
        values = [value(row, other) for row, other in zip(rows, others[start : start + size], strict=True)]
        yield f"data/{kind}-{number}.js", _script(f"{kind}-{number}", values)


def _script(name: str, content: Any) -> str:
    """ASCII only: no character of a file name or message can end a string or the script."""
    return f"zsad.receive({json.dumps(name)}, {json.dumps(content, separators=(',', ':'), allow_nan=False)});\n"


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _sequence(value: Any) -> Sequence[Any]:
    return [] if value is None or isinstance(value, float) else value


def _text(value: Any) -> str | None:
    return None if value is None or pd.isna(value) else str(value)


def _integer(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)


def _round(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
