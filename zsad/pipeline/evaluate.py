"""Distributed evaluation: one Ray task per part of the anomaly maps, states merged in order."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from zsad.config import ImagesConfig
from zsad.errors import ZsadError
from zsad.evaluation import METRICS_SCHEMA, PartState, decide_by, evaluate, evaluate_part
from zsad.evaluation.run import Counter
from zsad.filesystem import absolute, join, redact
from zsad.pipeline.cluster import check_readable, placement
from zsad.pipeline.ray_session import connected
from zsad.storage import RunInfo, read_run, write_atomically, write_decisions

_IN_FLIGHT_PER_CPU = 2
_PART_SECONDS = 3600.0
"""Longest wait for the next part to be counted, including the wait for a node."""


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
        address: see ``zsad.pipeline.ray_session.connected``.
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
    output = absolute(output)
    count = _counter(output, address, shared_filesystem, root)
    metrics = evaluate(output, resolution, split, bootstrap, root, count)
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
        address: see ``zsad.pipeline.ray_session.connected``.
        shared_filesystem, root: as for ``evaluate_run``.

    Returns:
        A DataFrame with the columns of ``zsad.storage.decisions.DECISIONS_SCHEMA``.

    Raises:
        UsageError: unknown threshold or split, no run there, ``f1`` without labels, or a local path on a cluster
            of several nodes.
        ZsadError: a map is missing or damaged.
    """
    output = absolute(output)
    decisions = decide_by(output, threshold, split, root, _counter(output, address, shared_filesystem, root))
    write_decisions(output, decisions)
    return decisions


def _counter(output: str, address: str | None, shared_filesystem: bool, root: str | None) -> Counter:
    """Counts on the cluster at ``address``, to which it connects once there is something to count."""
    info = read_run(output)
    paths, shared = _paths(output, info, root), shared_filesystem or _shared(info)

    def count(
        output: str, parts: Iterable[tuple[str, pd.DataFrame]], resolution: str, limits: ImagesConfig
    ) -> PartState:
        with connected(address):
            check_readable(paths, shared)
            return _merge_parts(output, parts, resolution, limits, placement(paths, shared))

    return count


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
    output: str,
    parts: Iterable[tuple[str, pd.DataFrame]],
    resolution: str,
    limits: ImagesConfig,
    place: Mapping[str, Any],
) -> PartState:
    task: Any = ray.remote(num_cpus=1, max_retries=3, **place)(evaluate_part)
    merged, waiting = PartState(), iter(parts)
    running: deque[Any] = deque()
    if _cpus() < 1:
        print("Waiting for a node with a CPU.", file=sys.stderr, flush=True)
    try:
        while True:
            # Anew each time: nodes of an autoscaled cluster come and go.
            free = max(0, max(2, int(_cpus()) * _IN_FLIGHT_PER_CPU) - len(running))
            running.extend(task.remote(output, *part, resolution, limits) for part in islice(waiting, free))
            if not running:
                return merged
            # Merged in order of name, so that sums of floats have the same bits every time.
            merged.merge(ray.get(running.popleft(), timeout=_PART_SECONDS))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ZsadError):
            raise error.cause from None
        raise
    except ray.exceptions.GetTimeoutError:
        raise ZsadError(
            f"No part of the maps was counted within {_PART_SECONDS:g} s; the cluster has {_cpus():g} CPUs. Wait for "
            "capacity and run the same command again, or run it on one machine with --address local."
        ) from None
    except ray.exceptions.TaskUnschedulableError:
        raise ZsadError(
            "The run's files are local, and this node of the cluster lends no CPU to read them with. Run the same command "
            "with --address local."
        ) from None
    except ray.exceptions.RayError as error:
        raise ZsadError(
            f"A process that counted the maps ended: {redact(str(error))[:300]} The predictions stay as they are; run the "
            "same command again, where memory was short with more of it."
        ) from None


def _cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 0))


def _write(metrics: pd.DataFrame, uri: str) -> None:
    table = pa.Table.from_pandas(metrics, schema=METRICS_SCHEMA, preserve_index=False).replace_schema_metadata(None)
    write_atomically(uri, lambda sink: pq.write_table(table, sink))
