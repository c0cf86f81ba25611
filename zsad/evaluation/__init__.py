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
    RESOLUTIONS,
    PartState,
    check_resolution,
    evaluable_parts,
    evaluate_part,
    mask_limits,
    merge_states,
)
from zsad.evaluation.summary import METRICS_SCHEMA, check_bootstrap, select_split, summarise
from zsad.evaluation.table import PUBLISHED, format_table
from zsad.filesystem import Uri, as_uri, redact
from zsad.storage import read_predictions, read_run

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
    "mask_limits",
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
    output: Uri,
    resolution: str | int = "native",
    split: str | None = None,
    bootstrap: int = 0,
) -> pd.DataFrame:
    """Per class and mean: F1-max, AUROC and AP at sample and pixel level, and AUPRO at 0.3.

    Sample-level metrics sort the raw float32 scores. Pixel-level metrics are over the float16 anomaly
    maps, normal images included, with the masks that the predictions name. Masks are decoded under the
    caps of the run's configuration.

    Args:
        output: folder or URI of the run.
        resolution: "native", or squares of 518, 400 or 240 pixels.
        split: only images of this split; None for all.
        bootstrap: resamples for 95 % intervals of the sample-level figures of each class, in the columns
            ``low`` and ``high``; 0 for none. The same number gives the same intervals.

    Returns:
        A DataFrame with the columns of ``METRICS_SCHEMA``.

    Raises:
        UsageError: unknown resolution or split, negative ``bootstrap``, or no predictions.
        ZsadError: a map is missing or holds NaN.
    """
    output, resolution = as_uri(output), check_resolution(str(resolution))
    check_bootstrap(bootstrap)
    predictions = load_predictions(output, split)
    info = read_run(output)
    limits = mask_limits(info)
    states = (
        evaluate_part(output, part_name, rows, resolution, limits) for part_name, rows in evaluable_parts(predictions)
    )
    return summarise(states, predictions, resolution, info.fingerprint if info else None, bootstrap)
