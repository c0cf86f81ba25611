"""Distributed evaluation: one Ray task per part of the anomaly maps, states merged in order."""

from __future__ import annotations

import re
from collections import deque
from itertools import islice
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from zsad.config import ImagesConfig
from zsad.datasets.moved import relocate
from zsad.errors import UsageError, ZsadError
from zsad.evaluation import (
    METRICS_SCHEMA,
    PartState,
    evaluable_parts,
    evaluate_part,
    load_predictions,
    mask_limits,
    summarise,
)
from zsad.evaluation.parts import check_resolution
from zsad.evaluation.summary import check_bootstrap
from zsad.evaluation.thresholds import decide, parse_rule, rows_to_count
from zsad.filesystem import absolute, join, redact
from zsad.pipeline.cluster import check_readable
from zsad.pipeline.ray_session import connected
from zsad.storage import RunInfo, read_run, while_unchanged, write_atomically, write_decisions

_IN_FLIGHT_PER_CPU = 2


def evaluate_run(
    output: str,
    resolution: str = "native",
    split: str | None = None,
    address: str | None = None,
    bootstrap: int = 0,
    shared_filesystem: bool = False,
    root: str | None = None,
) -> pd.DataFrame:
    """The metrics of a run, also written to ``metrics_uri``. Masks are decoded under the caps of the run.

    Args:
        output: path or URI of the run.
        resolution: ``native``, ``518``, ``400`` or ``240``.
        split: only this split; None for all.
        address: see ``zsad.pipeline.cluster.connected``.
        bootstrap: resamples for the intervals in ``low`` and ``high``; 0 for none.
        shared_filesystem: every node sees the same local files; a run scored with that setting needs it not again.
        root: of the dataset, where it has moved since it was scored.

    Returns:
        A DataFrame with the columns of ``METRICS_SCHEMA``.

    Raises:
        UsageError: unknown resolution or split, negative ``bootstrap``, no run there, a run without labels, or a local
            path on a cluster of several nodes.
        ZsadError: a map is missing or damaged.
    """
    check_resolution(resolution)
    check_bootstrap(bootstrap)
    output = absolute(output)
    info = read_run(output)
    limits, paths = mask_limits(info), _paths(output, info, root)
    shared_filesystem = shared_filesystem or _shared(info)

    def measure() -> tuple[pd.DataFrame, PartState]:
        predictions = _load(output, split, info, root)
        if predictions["gt_label"].notna().sum() == 0:
            raise UsageError(
                f"None of the {len(predictions)} images in {redact(output)!r} has a label, so there is nothing to "
                "compare with. Expected a dataset with labels, or a manifest with gt_label; 'zsad top' ranks without "
                "labels, and --threshold quantile:0.99 or budget:200 decides without."
            )
        with connected(address):
            check_readable(paths, shared_filesystem)
            return predictions, _merge_parts(output, evaluable_parts(predictions), resolution, limits)

    predictions, merged = while_unchanged(output, measure)
    metrics = summarise([merged], predictions, resolution, info.fingerprint if info else None, bootstrap)
    _write(metrics, metrics_uri(output, resolution, split))
    return metrics


def decide_run(
    output: str,
    threshold: str,
    split: str | None = None,
    address: str | None = None,
    shared_filesystem: bool = False,
    root: str | None = None,
) -> pd.DataFrame:
    """Which images a threshold flags, also written to ``OUT/decisions``, which it replaces; predictions stay.

    Args:
        output: path or URI of the run.
        threshold: see ``zsad.evaluation.thresholds``; only ``f1`` needs labels.
        split: decide on this split only; None for all.
        address: see ``zsad.pipeline.cluster.connected``.
        shared_filesystem, root: as for ``evaluate_run``.

    Returns:
        A DataFrame with the columns of ``zsad.storage.decisions.DECISIONS_SCHEMA``.

    Raises:
        UsageError: unknown threshold or split, no run there, ``f1`` without labels, or a local path on a cluster
            of several nodes.
        ZsadError: a map is missing or damaged.
    """
    rule = parse_rule(threshold)
    output = absolute(output)
    info = read_run(output)
    limits, paths = mask_limits(info), _paths(output, info, root)
    shared_filesystem = shared_filesystem or _shared(info)

    def measure() -> tuple[pd.DataFrame, PartState]:
        predictions = _load(output, split, info, root)
        counted = rows_to_count(predictions, rule)
        with connected(address):
            check_readable(paths, shared_filesystem)
            return predictions, _merge_parts(output, evaluable_parts(counted), "native", limits)

    predictions, merged = while_unchanged(output, measure)
    decisions = decide(predictions, merged, rule, info.fingerprint if info else None)
    write_decisions(output, decisions)
    return decisions


def _load(output: str, split: str | None, info: RunInfo | None, root: str | None) -> pd.DataFrame:
    predictions = load_predictions(output, split)
    return predictions if root is None else relocate(predictions, root, {} if info is None else info.dataset)


def _paths(output: str, info: RunInfo | None, root: str | None) -> list[str]:
    """What the nodes read: the run, and the dataset with its masks."""
    if root is None and info is not None:
        root = info.dataset.get("root")
    return [output, absolute(root)] if isinstance(root, str) else [output]


def _shared(info: RunInfo | None) -> bool:
    """Whether every node of the cluster saw the files of the run."""
    return info is not None and bool(info.config.get("runtime", {}).get("shared_filesystem"))


def metrics_uri(output: str, resolution: str = "native", split: str | None = None) -> str:
    """``OUT/metrics/<resolution>.parquet``, or ``OUT/metrics/<resolution>-<split>.parquet`` for one split.

    Characters of the split other than letters, digits, dot and minus become ``_``.
    """
    suffix = "" if split is None else "-" + re.sub(r"[^A-Za-z0-9.-]", "_", split)
    return join(output, "metrics", f"{resolution}{suffix}.parquet")


def _merge_parts(
    output: str, parts: list[tuple[str, pd.DataFrame]], resolution: str, limits: ImagesConfig
) -> PartState:
    task: Any = ray.remote(num_cpus=1, max_retries=3)(evaluate_part)
    limit = max(2, int(ray.cluster_resources().get("CPU", 1)) * _IN_FLIGHT_PER_CPU)
    merged, waiting = PartState(resolution), iter(parts)

    def start(part: tuple[str, pd.DataFrame]) -> Any:
        return task.remote(output, *part, resolution, limits)

    running: deque[Any] = deque(start(part) for part in islice(waiting, limit))
    try:
        # Merged in order of name, so that sums of floats have the same bits every time.
        while running:
            merged.merge(ray.get(running.popleft()))
            running.extend(start(part) for part in islice(waiting, 1))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ZsadError):
            raise error.cause from None
        raise
    return merged


def _write(metrics: pd.DataFrame, uri: str) -> None:
    table = pa.Table.from_pandas(metrics, schema=METRICS_SCHEMA, preserve_index=False).replace_schema_metadata(None)
    write_atomically(uri, lambda sink: pq.write_table(table, sink))
