"""Predictions as CSV that a spreadsheet opens without running anything."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from zsad.errors import UsageError
from zsad.export.stream import decide_again, scored_again, without_decision
from zsad.filesystem import exists, join, redact
from zsad.storage import (
    DECISIONS_SCHEMA,
    PREDICTIONS_SCHEMA,
    decisions_uri,
    read_decisions,
    read_predictions,
    write_atomically,
)
from zsad.storage.committed import committed_rows, superseded
from zsad.storage.files import DamagedPart, Sink
from zsad.storage.schemas import SUPERSEDING_COLUMNS

PREDICTIONS_CSV = "predictions.csv"
DECISION_COLUMNS = ("threshold", "pred_label", "pixel_threshold", "rule")

_DECISION_TYPES = tuple(DECISIONS_SCHEMA.field(name).type for name in DECISION_COLUMNS)
_BATCH = 4096
_MARK = codecs.BOM_UTF8
"""Without it Excel takes UTF-8 for the local character set."""
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a cell a formula in Excel, LibreOffice or Google Sheets, with the full-width forms."""
_STARTS_A_FORMULA_LATER = re.compile("([;|\t]\\s*)(?=[=+\\-@\uff1d\uff0b\uff0d\uff20])")
"""The same after what other countries' spreadsheets take for the end of a cell."""


def decisions_if_any(output: str) -> pd.DataFrame | None:
    """The decisions of a run by image id, or None. Raises UsageError when there is no run."""
    if read_predictions(output, ["image_id"]).empty:
        raise UsageError(f"No predictions in {redact(output)!r}. Nothing has been scored there yet.")
    return read_decisions(output).set_index("image_id") if exists(decisions_uri(output)) else None


def write_csv(output: str, decisions: pd.DataFrame | None, target: str) -> str:
    """Write ``predictions.csv``: one line per image, with the columns of the predictions and then of the decisions.

    The file is UTF-8 with a byte order mark. Lists and structs are written as JSON, nulls as nothing, and float32 values
    with as few digits as their precision allows. A text that a spreadsheet would take for a formula gets a ``'`` before
    it; columns of numbers hold numbers only. The columns of the decisions are empty where no decision was made on the
    score in this row, and a warning says how often.
    """
    counts: dict[str, int] = {}
    write_atomically(join(target, PREDICTIONS_CSV), lambda sink: _write(output, decisions, sink, counts))
    if decisions is not None:
        for name, text in (("stale", scored_again), ("undecided", without_decision)):
            if counts[name]:
                empty = "the columns of its decision are" if counts[name] == 1 else "the columns of their decisions are"
                warnings.warn(f"{text(counts[name])}; {empty} empty. {decide_again(output, decisions)}", stacklevel=2)
    return f"{counts['rows']} rows"


def defused(text: str) -> str:
    """``text``, with a ``'`` before it where a spreadsheet would take it for a formula."""
    text = _STARTS_A_FORMULA_LATER.sub(r"\1'", text)
    return (
        f"'{text}"
        if text.lstrip(" ").startswith(_STARTS_A_FORMULA) or text.lstrip().startswith(_STARTS_A_FORMULA)
        else text
    )


def _write(output: str, decisions: pd.DataFrame | None, sink: Sink, counts: dict[str, int]) -> None:
    counts |= {"rows": 0, "stale": 0, "undecided": 0}
    sink.write(_MARK)
    _write_lines(sink, [[*PREDICTIONS_SCHEMA.names, *DECISION_COLUMNS]])
    for rows in _valid_rows(output):
        for batch in rows.to_batches(_BATCH):
            table, stale, undecided = _with_decisions(pa.Table.from_batches([batch]), decisions)
            counts["stale"] += stale
            counts["undecided"] += undecided
            columns = [[_cell(value, field.type) for value in table[field.name].to_pylist()] for field in table.schema]
            _write_lines(sink, zip(*columns, strict=True))
            counts["rows"] += table.num_rows


def _write_lines(sink: Sink, lines: Any) -> None:
    text = io.StringIO()
    # Only a carriage return that is part of the line's end is quoted inside a cell.
    csv.writer(text, lineterminator="\r\n").writerows(lines)
    sink.write(text.getvalue().encode())


def _with_decisions(rows: pa.Table, decisions: pd.DataFrame | None) -> tuple[pa.Table, int, int]:
    """The rows with the columns of their decisions; how many were decided on with another score, and how many scored
    ones not at all."""
    if decisions is None:
        table = rows.from_arrays(
            [*rows.columns, *(pa.nulls(rows.num_rows, kind) for kind in _DECISION_TYPES)],
            names=[*rows.column_names, *DECISION_COLUMNS],
        )
        return table, 0, 0
    chosen = decisions.reindex(rows["image_id"].to_pylist())
    score, decided_score = rows["pred_score"].to_numpy(), chosen["pred_score"].to_numpy()
    # An image that failed has no score, then as now.
    failed = np.isnan(score) & np.isnan(decided_score)
    current = (decided_score == score) | failed
    for name, kind in zip(DECISION_COLUMNS, _DECISION_TYPES, strict=True):
        rows = rows.append_column(name, pa.Array.from_pandas(chosen[name].where(current), type=kind))
    stale = ~np.isnan(decided_score) & ~current
    undecided = np.isnan(decided_score) & ~np.isnan(score)
    return rows, int(stale.sum()), int(undecided.sum())


def _cell(value: Any, kind: pa.DataType) -> str:
    if value is None:
        return ""
    if pa.types.is_nested(kind):
        return json.dumps(_plain(value))
    return defused(value) if isinstance(value, str) else str(_plain(value))


def _plain(value: Any) -> Any:
    """Nested values with every float as short as float32 allows."""
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _valid_rows(output: str) -> Iterator[pa.Table]:
    """One table per part, without the rows that a later one replaced; one part in memory at a time."""
    parts = dict(committed_rows(output, SUPERSEDING_COLUMNS))
    valid = ~superseded(pa.concat_tables(parts.values()))
    start = 0
    for name, rows in committed_rows(output, PREDICTIONS_SCHEMA.names):
        if name not in parts or parts[name].num_rows != rows.num_rows:
            raise DamagedPart(
                f"The predictions in {redact(output)!r} changed meanwhile. Export again when scoring ends."
            )
        yield rows.filter(pa.array(valid[start : start + rows.num_rows]))
        start += rows.num_rows
