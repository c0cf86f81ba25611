"""Evaluation of a finished run: exact metrics on the stored scores and anomaly maps.

``evaluate`` works in this process, one part after the other. Its pieces are pure and mergeable, so
the parts can equally be spread over a cluster: ``evaluable_parts`` -> ``evaluate_part`` for each ->
``summarise``.
"""

from __future__ import annotations

import pandas as pd

from zsad.errors import UsageError
from zsad.evaluation.histograms import PixelHistogram
from zsad.evaluation.metrics import Curve, Metric, bootstrap_interval, sample_metrics
from zsad.evaluation.parts import (
    COLUMNS,
    MAX_PIXELS,
    RESOLUTIONS,
    PartState,
    check_resolution,
    evaluable_parts,
    evaluate_part,
    merge_states,
)
from zsad.evaluation.summary import METRICS_SCHEMA, select_split, summarise
from zsad.evaluation.table import PUBLISHED, format_table
from zsad.filesystem import redact
from zsad.storage import read_predictions

__all__ = [
    "METRICS_SCHEMA",
    "PUBLISHED",
    "RESOLUTIONS",
    "Curve",
    "Metric",
    "PartState",
    "PixelHistogram",
    "bootstrap_interval",
    "evaluable_parts",
    "evaluate",
    "evaluate_part",
    "format_table",
    "load_predictions",
    "merge_states",
    "sample_metrics",
    "select_split",
    "summarise",
]


def load_predictions(output: str, split: str | None = None) -> pd.DataFrame:
    """The predictions of a run that an evaluation is over, with the columns that it needs.

    Raises:
        UsageError: the run holds no predictions, or none of this split.
    """
    predictions = read_predictions(output, COLUMNS)
    if predictions.empty:
        raise UsageError(f"No predictions in {redact(output)!r}. Nothing has been scored there yet.")
    return select_split(predictions, split)


def evaluate(
    output: str,
    resolution: str = "native",
    split: str | None = None,
    max_pixels: int = MAX_PIXELS,
    max_file_bytes: int | None = None,
) -> pd.DataFrame:
    """Per class and mean: F1-max, AUROC and AP at sample and pixel level, and AUPRO at 0.3.

    Sample-level metrics sort the raw float32 scores. Pixel-level metrics are over the float16 anomaly
    maps, normal images included, with the masks that the predictions name.

    Args:
        output: folder or URI of the run.
        resolution: "native", "518", "400" or "240".
        split: only images of this split; None for all.
        max_pixels: cap on a mask.
        max_file_bytes: cap on a mask's file.

    Returns:
        A DataFrame with the columns of ``METRICS_SCHEMA``.

    Raises:
        UsageError: unknown resolution or split, or no predictions.
        ZsadError: a map is missing or holds NaN.
    """
    check_resolution(resolution)
    predictions = load_predictions(output, split)
    states = (
        evaluate_part(output, part_name, rows, resolution, max_pixels, max_file_bytes)
        for part_name, rows in evaluable_parts(predictions)
    )
    return summarise(states, predictions, resolution)
