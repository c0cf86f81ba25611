"""States and predictions -> the tidy table of metrics."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from zsad.errors import UsageError, ZsadError
from zsad.evaluation.metrics import Metric, bootstrap_interval, sample_metrics
from zsad.evaluation.parts import MAX_NAMED, ClassState, PartState, category_of, scored
from zsad.text import count

MEAN = "mean"

EXCLUSIONS = (
    "excluded_error",
    "excluded_unlabelled",
    "excluded_no_mask",
    "excluded_mask_size",
    "excluded_mask_unreadable",
)

METRICS_SCHEMA = pa.schema(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("reason", pa.string()),
        pa.field("resolution", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("num_images", pa.int64(), nullable=False),
        pa.field("num_anomalous", pa.int64(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in EXCLUSIONS),
    ]
)
"""One row per class, level and metric.

``value`` is in [0, 1]; null with a ``reason`` where undefined. Rows of category ``mean`` hold the
unweighted mean over the classes where the metric is defined; their ``reason`` names those left out,
and their counts are sums. ``num_images`` and ``num_anomalous`` count what the figure is over; the
``excluded_`` columns count what was left out of it and why (those about masks are 0 at sample level).
``split`` joins the evaluated splits by "+". ``low`` and ``high`` bound the 95 % bootstrap interval of a
class's sample-level figure where it was asked for and the class has two normal and two anomalous images
at least, else they are null. ``fingerprint`` is that of ``run.json``, null without one.
"""


def select_split(predictions: pd.DataFrame, split: str | None) -> pd.DataFrame:
    """The rows of one split; all rows when ``split`` is None.

    Raises:
        UsageError: no row has this split.
    """
    if split is None:
        return predictions
    selected = predictions[predictions["split"] == split]
    if selected.empty:
        known = ", ".join(_splits(predictions)) or "none"
        raise UsageError(f"No image of split {split!r} in the predictions. Splits there: {known}.")
    return selected


def summarise(
    state: PartState,
    predictions: pd.DataFrame,
    resolution: str = "native",
    fingerprint: str | None = None,
    bootstrap: int = 0,
) -> pd.DataFrame:
    """The table of metrics, columns as ``METRICS_SCHEMA``.

    Args:
        state: of all parts of ``predictions``, merged, from ``evaluate_part`` at this resolution.
        predictions: columns image_id, category, split, gt_label, status and pred_score; one row per image.
        resolution: recorded with every figure.
        fingerprint: of the run, recorded with every figure.
        bootstrap: resamples for ``low`` and ``high``, see ``zsad.evaluation.bootstrap_interval``; 0 for none.

    Warns where a class has too few images for an interval, of masks that could not be used, and of anomalous images whose
    mask is empty.

    Raises:
        ZsadError: the state does not cover the predictions, or a score is NaN.
    """
    protocol = {
        "resolution": resolution,
        "split": "+".join(_splits(predictions)) or None,
        "fingerprint": fingerprint,
    }
    rows: list[dict[str, Any]] = []
    for category, group in predictions.groupby(category_of(predictions), sort=True):
        rows += _class_rows(str(category), group, state.classes.get(str(category), ClassState()), bootstrap)
    warn_of_bad_masks(state)
    if bootstrap:
        _warn_of_missing_intervals(rows)
    rows += _mean_rows(rows)
    return pa.Table.from_pylist([row | protocol for row in rows], schema=METRICS_SCHEMA).to_pandas()


def _class_rows(category: str, group: pd.DataFrame, state: ClassState, bootstrap: int) -> list[dict[str, Any]]:
    valid = scored(group)
    labelled = valid[valid["gt_label"].notna()]
    if state.num_seen != len(labelled):
        raise ZsadError(
            f"Class {category!r} has {len(labelled)} labelled images with a score, but {state.num_seen} "
            "anomaly maps were evaluated. Every part of the run must be evaluated exactly once."
        )
    labels = labelled["gt_label"].to_numpy(np.int64)
    scores = labelled["pred_score"].to_numpy(np.float32)
    try:
        sample = sample_metrics(scores, labels)
    except ZsadError as error:
        raise ZsadError(f"Class {category!r}: {error}.") from None
    common = {
        "excluded_error": len(group) - len(valid),
        "excluded_unlabelled": len(valid) - len(labelled),
    }
    sample_counts = common | {
        "num_images": len(labelled),
        "num_anomalous": int(labels.sum()),
        "excluded_no_mask": 0,
        "excluded_mask_size": 0,
        "excluded_mask_unreadable": 0,
    }
    pixel_counts = common | {
        "num_images": state.num_images,
        "num_anomalous": state.num_anomalous,
        "excluded_no_mask": state.excluded_no_mask,
        "excluded_mask_size": state.excluded_mask_size,
        "excluded_mask_unreadable": state.excluded_mask_unreadable,
    }
    pixel = state.histogram.compute()
    intervals = {name: bootstrap_interval(scores, labels, name, bootstrap) for name in sample} if bootstrap else {}
    return [
        *(
            _row(category, "sample", name, metric, sample_counts, intervals.get(name))
            for name, metric in sample.items()
        ),
        *(_row(category, "pixel", name, _with_cause(metric, state), pixel_counts) for name, metric in pixel.items()),
    ]


def _with_cause(metric: Metric, state: ClassState) -> Metric:
    """The metric; where there are no anomalous pixels because of images left out, its reason says so."""
    left_out = state.excluded_no_mask + state.excluded_mask_size + state.excluded_mask_unreadable
    if metric.reason is None or not left_out or state.num_anomalous:
        return metric
    images = count(left_out, "image without a usable mask is", "images without a usable mask are")
    return replace(metric, reason=f"{metric.reason} ({images} left out)")


def warn_of_bad_masks(state: PartState) -> None:
    """Warn of masks that could not be used, and of anomalous images whose mask is empty."""
    classes = [state.classes[name] for name in sorted(state.classes)]
    bad = sum(each.excluded_mask_size + each.excluded_mask_unreadable for each in classes)
    if bad:
        named = [text for each in classes for text in each.bad_masks][:MAX_NAMED]
        masks, images = ("mask", "its image") if bad == 1 else ("masks", "their images")
        moved = any(each.num_missing_masks for each in classes)
        advice = (
            "If the dataset has moved, say where it is with --root FOLDER." if moved else "Correct and evaluate again."
        )
        warnings.warn(
            f"{bad} {masks} cannot be used, which leaves {images} out at pixel level: "
            f"{', '.join(named)}{' and others' if bad > len(named) else ''}. {advice}",
            stacklevel=3,
        )
    empty = sum(each.num_empty_masks for each in classes)
    if empty:
        named = [text for each in classes for text in each.empty_masks][:MAX_NAMED]
        masks, its = (
            ("The mask of 1 anomalous image is", "its")
            if empty == 1
            else (f"The masks of {empty} anomalous images are", "their")
        )
        warnings.warn(
            f"{masks} empty, so all {its} pixels count as normal: "
            f"{', '.join(named)}{' and others' if empty > len(named) else ''}. Transparency does not count as a mask.",
            stacklevel=3,
        )


def _warn_of_missing_intervals(rows: list[dict[str, Any]]) -> None:
    defined = [row for row in rows if row["level"] == "sample" and row["value"] is not None]
    names = list(dict.fromkeys(row["category"] for row in defined if row["low"] is None))
    if names:
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        warnings.warn(f"No interval for {shown}: it takes two normal and two anomalous images at least.", stacklevel=3)


def _mean_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    result = []
    for level, name in dict.fromkeys((row["level"], row["metric"]) for row in rows):
        group = [row for row in rows if (row["level"], row["metric"]) == (level, name)]
        values = [row["value"] for row in group if row["value"] is not None]
        undefined = [row["category"] for row in group if row["value"] is None]
        reason = None
        if undefined and values:
            reason = f"over {len(values)} of {len(group)} classes; undefined for {', '.join(undefined)}"
        elif undefined:
            reason = "undefined for every class"
        counts = {key: sum(row[key] for row in group) for key in ("num_images", "num_anomalous", *EXCLUSIONS)}
        mean = Metric(float(np.mean(values)) if values else None, reason=reason)
        result.append(_row(MEAN, level, name, mean, counts))
    return result


def _row(
    category: str,
    level: str,
    name: str,
    metric: Metric,
    counts: dict[str, int],
    interval: tuple[float, float] | None = None,
) -> dict[str, Any]:
    low, high = interval or (None, None)
    figures = {"value": metric.value, "low": low, "high": high, "threshold": metric.threshold, "reason": metric.reason}
    return {"category": category, "level": level, "metric": name, **figures, **counts}


def _splits(predictions: pd.DataFrame) -> list[str]:
    return sorted(str(split) for split in predictions["split"].dropna().unique())
