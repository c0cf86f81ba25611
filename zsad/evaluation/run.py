"""A run's metrics, and which of its images a threshold flags."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral

import pandas as pd

from zsad.config import ImagesConfig
from zsad.datasets.moved import relocate
from zsad.errors import UsageError
from zsad.evaluation.parts import COLUMNS, PartState, check_resolution, evaluable_parts, evaluate_part, merge_states
from zsad.evaluation.summary import select_split, summarise, warn_of_bad_masks
from zsad.evaluation.thresholds import decide, parse_rule, rows_to_count
from zsad.filesystem import Uri, as_uri, redact
from zsad.storage import RunInfo, images_config, read_predictions, read_run, while_unchanged

Counter = Callable[[str, Iterable[tuple[str, pd.DataFrame]], str, ImagesConfig], PartState]
"""Output, parts from ``evaluable_parts``, resolution and limits -> the merged states of ``evaluate_part``."""


def count_parts(
    output: str, parts: Iterable[tuple[str, pd.DataFrame]], resolution: str, limits: ImagesConfig
) -> PartState:
    """The ``Counter`` of this process: one part after the other."""
    states = (evaluate_part(output, name, rows, resolution, limits) for name, rows in parts)
    return merge_states(states)


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
    root: str | None = None,
    count: Counter = count_parts,
) -> pd.DataFrame:
    """Per class and mean: F1-max, AUROC and AP at sample and pixel level, and AUPRO at 0.3.

    Sample-level metrics sort the raw float32 scores. Pixel-level metrics are over the float16 anomaly
    maps, normal images included, with the masks that the predictions name. Masks are decoded under the
    caps of the run's configuration. Where ``zsad compact`` replaces files meanwhile, it begins again.

    Args:
        output: folder or URI of the run.
        resolution: "native", or squares of 518, 400 or 240 pixels.
        split: only images of this split; None for all.
        bootstrap: resamples for 95 % intervals of the sample-level figures of each class, in the columns
            ``low`` and ``high``; 0 for none. The same number gives the same intervals.
        root: of the dataset, where it has moved since it was scored.
        count: counts the pixels; by default in this process.

    Returns:
        A DataFrame with the columns of ``METRICS_SCHEMA``.

    Raises:
        UsageError: unknown resolution or split, negative ``bootstrap``, no predictions, or none with a label.
        ZsadError: a map is missing or holds NaN.
    """
    output, resolution = as_uri(output), str(resolution)
    check_resolution(resolution)
    if not isinstance(bootstrap, Integral) or isinstance(bootstrap, bool) or bootstrap < 0:
        raise UsageError(f"Given {bootstrap!r} bootstrap resamples. Expected 0 for none, or e.g. 1000.")
    info = read_run(output)

    def measure() -> tuple[pd.DataFrame, PartState]:
        predictions = _load(output, split, root, info)
        if predictions["gt_label"].notna().sum() == 0:
            raise UsageError(
                f"None of the {len(predictions)} images in {redact(output)!r} has a label, so there is nothing to "
                "compare with. Expected a dataset with labels, or a manifest with gt_label; 'zsad top' ranks without "
                "labels, and --threshold quantile:0.99 or budget:200 decides without."
            )
        return predictions, count(output, evaluable_parts(predictions), resolution, images_config(info))

    predictions, state = while_unchanged(output, measure)
    return summarise(state, predictions, resolution, info.fingerprint if info else None, bootstrap)


def decide_by(
    output: Uri, threshold: str, split: str | None = None, root: str | None = None, count: Counter = count_parts
) -> pd.DataFrame:
    """Which images a threshold flags. Where it reads masks, it warns of those that ``evaluate`` warns of.

    Args:
        output, split, root, count: as for ``evaluate``.
        threshold: see ``zsad.evaluation.thresholds``; only ``f1`` needs labels.

    Returns:
        A DataFrame with the columns of ``zsad.storage.decisions.DECISIONS_SCHEMA``.

    Raises:
        UsageError: unknown threshold or split, no predictions, or ``f1`` without labels.
        ZsadError: a map is missing or damaged.
    """
    output, rule = as_uri(output), parse_rule(threshold)
    info = read_run(output)

    def measure() -> tuple[pd.DataFrame, PartState]:
        predictions = _load(output, split, root, info)
        parts = evaluable_parts(rows_to_count(predictions, rule))
        return predictions, count(output, parts, "native", images_config(info))

    predictions, state = while_unchanged(output, measure)
    warn_of_bad_masks(state)
    return decide(predictions, state, rule, info.fingerprint if info else None)


def _load(output: str, split: str | None, root: str | None, info: RunInfo | None) -> pd.DataFrame:
    predictions = load_predictions(output, split)
    return predictions if root is None else relocate(predictions, root, {} if info is None else info.dataset)
