"""The commit: one task's rows become two files, the predictions part last.

A predictions part under its final name is committed, with everything it points to. So the maps part is
written first, and its name holds a digest of its content: a retried task with other bits never swaps
the maps under a predictions part that is already committed, and one with equal bits writes the same file.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zsad.errors import ZsadError
from zsad.filesystem import join
from zsad.layout import ANOMALY_MAPS, PREDICTIONS
from zsad.storage.files import Sink, list_parts, write_atomically
from zsad.storage.schemas import (
    ANOMALY_MAPS_SCHEMA,
    MAP_COLUMNS,
    PREDICTIONS_SCHEMA,
    SCORED_SCHEMA,
    conform,
)

_PART_NAME = re.compile(r"part-(?P<run>[^/]+)-\d{6,}\.parquet")
_FILE_NAME = re.compile(r"\.?part-(?P<run>[^/]+?)-\d{6,}(-[0-9a-f]{8})?\.parquet(\.[0-9a-f]{8}\.tmp)?")
_RUN_ID = re.compile(r"(?P<date>\d{8})T(?P<time>\d{12})Z[0-9a-f]{6}")
_TIME = "%Y%m%dT%H%M%S%f"


def new_run_id(output: str) -> str:
    """An identifier of a run into ``output`` that sorts after those of all its committed parts.

    It begins with the time in UTC; where another machine's clock was ahead, with a time just after its.
    """
    now = datetime.now(timezone.utc).strftime(_TIME)
    names = [match["run"] for name in list_parts(output, PREDICTIONS) if (match := _PART_NAME.fullmatch(name))]
    runs = [(match["date"], match["time"]) for run in names if (match := _RUN_ID.fullmatch(run))]
    date, time = max(runs, default=("00000000", "0" * 12))
    if f"{date}T{time}" >= now:
        now = f"{date}T{int(time) + 1:012d}"
    return f"{now}Z{secrets.token_hex(3)}"


def part_name(run_id: str, task_index: int) -> str:
    """Name of the part of one task of a run, the same for every attempt of the task."""
    return f"part-{run_id}-{task_index:06d}.parquet"


def run_of_file(name: str) -> str | None:
    """The run that wrote a part of either table or a temporary file of one; None for other names."""
    match = _FILE_NAME.fullmatch(name)
    return match["run"] if match else None


def write_part(output: str, name: str, rows: pa.Table) -> None:
    """Commit scored rows, in the order given; nothing is written for an empty table.

    Args:
        output: folder or URI of the run.
        name: from ``part_name``; a part of this name is replaced.
        rows: with the columns of ``SCORED_SCHEMA``.

    Raises:
        ZsadError: the rows do not fit the schema, a row with ``status=ok`` has no map or one with
            ``status=error`` has one, or the files cannot be written.
    """
    if not _PART_NAME.fullmatch(name):
        raise ZsadError(f"Given the part name {name!r}; expected part-<run_id>-<task index>.parquet.")
    scored = conform(rows, SCORED_SCHEMA)
    if scored.num_rows == 0:
        return
    with_map = _rows_with_map(scored)
    map_part = None
    if with_map.size:
        map_part = f"{name.removesuffix('.parquet')}-{_digest(scored, with_map)}.parquet"
        write_atomically(join(output, ANOMALY_MAPS, map_part), lambda sink: _write_maps(sink, scored, with_map))
    predictions = _predictions(scored, with_map, map_part)
    write_predictions(output, name, predictions)


def write_predictions(output: str, name: str, predictions: pa.Table) -> None:
    """Write one part of ``PREDICTIONS_SCHEMA`` atomically."""
    table = conform(predictions, PREDICTIONS_SCHEMA)
    write_atomically(
        join(output, PREDICTIONS, name),
        lambda sink: pq.write_table(table, sink, compression="zstd", write_page_checksum=True),
    )


def maps_writer(sink: Sink) -> pq.ParquetWriter:
    """A writer of ``ANOMALY_MAPS_SCHEMA``, to be given one table of one row per map."""
    # Statistics and dictionaries of unique, compressed values only make the footer longer.
    return pq.ParquetWriter(
        sink,
        ANOMALY_MAPS_SCHEMA,
        use_dictionary=False,
        write_statistics=False,
        compression={"foreground_rle": "zstd"},
        write_page_checksum=True,
    )


def _rows_with_map(scored: pa.Table) -> NDArray[np.intp]:
    ok = pc.equal(scored["status"], "ok")
    if not pc.all(pc.or_(ok, pc.equal(scored["status"], "error"))).as_py():
        raise ZsadError(f"Unknown status in {pc.unique(scored['status']).to_pylist()}; expected 'ok' or 'error'.")
    for column in [*MAP_COLUMNS, "image_height", "image_width"]:
        present = pc.is_valid(scored[column])
        unfit = pc.not_equal(present, ok) if column in MAP_COLUMNS else pc.and_not(ok, present)
        first = pc.index(unfit, True).as_py()
        if first >= 0:
            row = scored.slice(first, 1)
            raise ZsadError(
                f"The row of {row['image_id'][0]} has status={row['status'][0]}, which does not fit its {column}. "
                "Expected a map and a size on every row with status=ok, and no map on the others."
            )
    return np.flatnonzero(ok.to_numpy())


def _digest(scored: pa.Table, with_map: NDArray[np.intp]) -> str:
    digest = hashlib.blake2b(digest_size=4)
    for row in with_map.tolist():
        digest.update(str(scored["image_id"][row]).encode())
        digest.update(scored["map_data"][row].as_buffer())
    return digest.hexdigest()


def _write_maps(sink: Sink, scored: pa.Table, with_map: NDArray[np.intp]) -> None:
    sources = {column: source for source, column in MAP_COLUMNS.items()}
    sources |= {"height": "image_height", "width": "image_width"}
    columns = scored.select([sources.get(name, name) for name in ANOMALY_MAPS_SCHEMA.names])
    with maps_writer(sink) as writer:
        for row in with_map.tolist():
            one = columns.slice(row, 1).rename_columns(ANOMALY_MAPS_SCHEMA.names)
            writer.write_table(conform(one, ANOMALY_MAPS_SCHEMA))


def _predictions(scored: pa.Table, with_map: NDArray[np.intp], map_part: str | None) -> pa.Table:
    row_group = np.full(scored.num_rows, -1, np.int32)
    row_group[with_map] = np.arange(with_map.size)
    missing = row_group < 0
    part = pa.array([map_part] * scored.num_rows, pa.string(), mask=missing)
    predictions = scored.append_column("map_part", part)
    predictions = predictions.append_column("map_row_group", pa.array(row_group, pa.int32(), mask=missing))
    return predictions
