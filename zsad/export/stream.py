"""Anomaly maps of a run, decoded and worked on by a few threads at once, in order and in bounded memory."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zsad.errors import UsageError
from zsad.filesystem import redact
from zsad.storage import iter_maps, read_decisions, read_predictions
from zsad.text import count

_MAPS_PER_TASK = 8
_MAX_THREADS = 8

COLUMNS = ("image_id", "category", "image_height", "image_width", "status", "pred_score", "map_part", "map_row_group")

Row = Any
"""One prediction, from ``DataFrame.itertuples``."""
Result = TypeVar("Result")


def scored_rows(output: str) -> pd.DataFrame:
    """``COLUMNS`` of the images that have a map, in the order in which the maps lie on disk.

    Raises:
        UsageError: no run there, or none of its images has a map.
    """
    predictions = read_predictions(output, COLUMNS)
    rows = predictions[predictions["status"] == "ok"]
    if rows.empty:
        raise UsageError(
            f"No image in {redact(output)!r} has an anomaly map ({len(predictions)} rows). Run 'zsad score' first."
        )
    return rows.sort_values(["map_part", "map_row_group"]).reset_index(drop=True)


def decided_rows(output: str) -> pd.DataFrame:
    """``scored_rows`` that were decided on, with ``pred_label``, ``pixel_threshold`` and ``rule``.

    Warns where scored images were not decided on.

    Raises:
        UsageError: no run or no decisions there, decisions that no longer fit the predictions, or a class
            without a pixel threshold; each says what to run.
    """
    rows = scored_rows(output)
    decisions = read_decisions(output)
    again = decide_again(output, decisions)
    decided = decisions.loc[
        decisions["status"] == "ok", ["image_id", "pred_score", "pred_label", "pixel_threshold", "rule"]
    ]
    merged = rows.merge(decided, on="image_id", suffixes=("", "_decided"), validate="one_to_one")
    stale = (merged["pred_score"] != merged["pred_score_decided"]).sum() + len(decided) - len(merged)
    if stale:
        raise UsageError(f"{scored_again(stale)}. {again}")
    if merged.empty:
        raise UsageError(f"No scored image has a decision. {again}")
    undefined = sorted(map(str, merged.loc[merged["pixel_threshold"].isna(), "category"].unique()))
    if undefined:
        raise UsageError(
            f"No pixel threshold for {', '.join(undefined[:5])}: 'f1' found no usable mask with anomalous pixels there. "
            f"Run 'zsad evaluate {redact(output)} --threshold quantile:0.99' or budget:N instead."
        )
    if missing := len(rows) - len(merged):
        left_out = "is left out" if missing == 1 else "are left out"
        warnings.warn(f"{without_decision(missing)} and {left_out}. {again}", stacklevel=2)
    return merged


def scored_again(number: int) -> str:
    """That decisions are older than their scores."""
    return f"{count(number, 'image was', 'images were')} scored again after the decisions were made"


def without_decision(number: int) -> str:
    """That scored images were never decided on."""
    return f"{count(number, 'scored image has', 'scored images have')} no decision (another split, or scored later)"


def decide_again(output: str, decisions: pd.DataFrame) -> str:
    """How decisions that no longer fit the predictions are made anew, by the same rule."""
    return f"Run 'zsad evaluate {redact(output)} --threshold {decisions['rule'].iloc[0]}' again."


def each_map(output: str, rows: pd.DataFrame, work: Callable[[Row, NDArray[np.float16]], Result]) -> Iterator[Result]:
    """``work(row, map)`` for every row, in the order of ``rows``.

    Args:
        output: folder or URI of the run.
        rows: from ``scored_rows`` or ``decided_rows``.
        work: called from several threads with a row and its (H, W) float16 map.

    Raises:
        ZsadError: a map is missing or damaged, or does not belong to its row; what ``work`` raises.
    """

    def task(part_name: str, chunk: list[Row]) -> list[Result]:
        maps = iter_maps(output, part_name, [(row.image_id, int(row.map_row_group)) for row in chunk])
        return [work(row, stored.anomaly_map()) for row, stored in zip(chunk, maps, strict=True)]

    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    waiting = _chunks(rows)
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[list[Result]]] = deque(pool.submit(task, *each) for each in islice(waiting, 2 * threads))
        try:
            while running:
                yield from running.popleft().result()
                running.extend(pool.submit(task, *each) for each in islice(waiting, 1))
        finally:
            for future in running:
                future.cancel()


def _chunks(rows: pd.DataFrame) -> Iterator[tuple[str, list[Row]]]:
    for part_name, part in rows.groupby("map_part", sort=False):
        for start in range(0, len(part), _MAPS_PER_TASK):
            yield str(part_name), list(part.iloc[start : start + _MAPS_PER_TASK].itertuples(index=False))
