"""Distributed evaluation: one Ray task per part of the anomaly maps, states merged in order."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from zsad.errors import UsageError, ZsadError
from zsad.evaluation import (
    METRICS_SCHEMA,
    PartState,
    evaluable_parts,
    evaluate_part,
    load_predictions,
    summarise,
)
from zsad.evaluation.parts import check_resolution
from zsad.filesystem import absolute, join, redact, resolve
from zsad.pipeline.cluster import connected

_IN_FLIGHT_PER_CPU = 2


def evaluate_run(
    output: str, resolution: str = "native", split: str | None = None, address: str | None = None
) -> pd.DataFrame:
    """The metrics of a run, also written to ``OUT/metrics/<resolution>.parquet``.

    Args:
        output: path or URI of the run.
        resolution: ``native``, ``518``, ``400`` or ``240``.
        split: only this split; None for all.
        address: see ``zsad.pipeline.cluster.connected``.

    Returns:
        A DataFrame with the columns of ``METRICS_SCHEMA``.

    Raises:
        UsageError: unknown resolution or split, no run there, or a run without labels.
        ZsadError: a map is missing or damaged.
    """
    check_resolution(resolution)
    output = absolute(output)
    predictions = load_predictions(output, split)
    if predictions["gt_label"].notna().sum() == 0:
        raise UsageError(
            f"None of the {len(predictions)} images in {redact(output)!r} has a label, so there is nothing to compare "
            "with. Expected a dataset with labels, or a manifest with gt_label; 'zsad top' ranks without labels."
        )
    with connected(address):
        merged = _merge_parts(output, evaluable_parts(predictions), resolution)
    metrics = summarise([merged], predictions, resolution)
    _write(metrics, join(output, "metrics", f"{resolution}.parquet"))
    return metrics


def _merge_parts(output: str, parts: list[tuple[str, pd.DataFrame]], resolution: str) -> PartState:
    task: Any = ray.remote(num_cpus=1, max_retries=3)(evaluate_part)
    limit = max(2, int(ray.cluster_resources().get("CPU", 1)) * _IN_FLIGHT_PER_CPU)
    merged, waiting = PartState(resolution), iter(parts)
    running: deque[Any] = deque(task.remote(output, *part, resolution) for part in islice(waiting, limit))
    try:
        # Merged in order of name, so that sums of floats have the same bits every time.
        while running:
            merged.merge(ray.get(running.popleft()))
            running.extend(task.remote(output, *part, resolution) for part in islice(waiting, 1))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ZsadError):
            raise error.cause from None
        raise
    return merged


def _write(metrics: pd.DataFrame, uri: str) -> None:
    filesystem, path = resolve(uri)
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    table = pa.Table.from_pandas(metrics, schema=METRICS_SCHEMA, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path, filesystem=filesystem)
