"""Evaluation of a finished run: exact metrics on the stored scores and anomaly maps.

``evaluate`` works in this process, one part after the other. The parts are counted by a pure function whose
results can be merged, so they can equally be spread over a cluster: ``zsad.pipeline.evaluate``.
"""

from __future__ import annotations

from zsad.evaluation.histograms import PixelHistogram
from zsad.evaluation.metrics import Curve, Metric, bootstrap_interval, sample_metrics
from zsad.evaluation.parts import (
    RESOLUTIONS,
    PartState,
    evaluable_parts,
    evaluate_part,
    merge_states,
)
from zsad.evaluation.run import count_parts, decide_by, evaluate, load_predictions
from zsad.evaluation.summary import METRICS_SCHEMA, select_split, summarise
from zsad.evaluation.table import PUBLISHED, format_table

__all__ = [
    "METRICS_SCHEMA",
    "PUBLISHED",
    "RESOLUTIONS",
    "Curve",
    "Metric",
    "PartState",
    "PixelHistogram",
    "bootstrap_interval",
    "count_parts",
    "decide_by",
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
