"""Fewer, larger files: many small parts of a run become few, row by row the same table.

Rows of several predictions parts are written as one new part (the commit); only then do the old parts go, and
after them the maps parts that only they pointed to. A kill in between leaves some rows in two parts, which the
readers drop as they drop every duplicate; the next ``compact`` or ``zsad score`` tidies up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zsad.errors import ZsadError
from zsad.filesystem import join, redact
from zsad.layout import ANOMALY_MAPS, PREDICTIONS
from zsad.storage.cleanup import drop_superseded
from zsad.storage.committed import committed_rows
from zsad.storage.files import Sink, delete, list_files, list_parts, open_part, read_part, write_atomically
from zsad.storage.lock import no_results, output_lock
from zsad.storage.reader import check_owner
from zsad.storage.run import read_run, resume_success, suspend_success
from zsad.storage.schemas import ANOMALY_MAPS_SCHEMA, PREDICTIONS_SCHEMA, conform
from zsad.storage.writer import maps_writer, new_run_id, part_name, write_predictions

ROWS_PER_PART = 20_000
"""Rows of a predictions part: some megabytes."""
MAPS_BYTES = 256 * 1024**2
"""Size of a maps part: few enough files, and one fits into memory where an object store needs that."""


@dataclass(frozen=True)
class Stored:
    """Files and bytes of both tables."""

    predictions: int
    predictions_bytes: int
    maps: int
    maps_bytes: int


@dataclass(frozen=True)
class Compaction:
    """What ``compact`` found and left."""

    before: Stored
    after: Stored


def compact(output: str, rows_per_part: int = ROWS_PER_PART, maps_bytes: int = MAPS_BYTES) -> Compaction:
    """Rewrite small parts of a run into parts of about the given size; again = nothing to do.

    A predictions part is small below half of ``rows_per_part``; the maps parts of the small ones are
    rewritten when they are below half of ``maps_bytes``. ``map_part`` and ``map_row_group`` follow.
    ``_SUCCESS`` is away meanwhile, since a raw read of the folder could see a row twice.

    Args:
        output: folder or URI of the run.
        rows_per_part: most rows of a new predictions part.
        maps_bytes: a new maps part ends with the map that reaches this size.

    Raises:
        UsageError: no run at ``output``, or a run is writing to it.
        ZsadError: a part is damaged, a file cannot be written, or another run took over; nothing is lost.
    """
    info = read_run(output)
    if info is None:
        raise no_results(output)
    with output_lock(output) as lock:
        before = stored(output)
        # Also removes what a killed compaction left.
        drop_superseded(output, info.fingerprint)
        groups = _groups(output, rows_per_part)
        if groups:
            suspend_success(output)
        run_id = new_run_id(output)
        for index, names in enumerate(groups):
            lock.check()
            _merge(output, names, part_name(run_id, index), maps_bytes)
        lock.check()
        resume_success(output)
        return Compaction(before, stored(output))


def stored(output: str) -> Stored:
    """Files and bytes of both tables of a run."""
    sizes = []
    for folder in (PREDICTIONS, ANOMALY_MAPS):
        names = set(list_parts(output, folder))
        found = [info.size or 0 for info in list_files(join(output, folder)) if info.base_name in names]
        sizes += [len(found), sum(found)]
    return Stored(*sizes)


def _groups(output: str, rows_per_part: int) -> list[list[str]]:
    """Small predictions parts to merge with each other, oldest first, each group up to ``rows_per_part``.

    A full group holds over half of ``rows_per_part``, so that it is not small itself.
    """
    groups: list[list[str]] = [[]]
    total = 0
    for name, rows in committed_rows(output, ["image_id"]):
        if 2 * rows.num_rows >= rows_per_part:
            continue
        if total + rows.num_rows > rows_per_part:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += rows.num_rows
    return [group for group in groups if len(group) > 1]


def _merge(output: str, names: Sequence[str], new_name: str, maps_bytes: int) -> None:
    rows = pa.concat_tables([read_part(output, PREDICTIONS, name, PREDICTIONS_SCHEMA.names) for name in names])
    sizes = {info.base_name: info.size or 0 for info in list_files(join(output, ANOMALY_MAPS))}
    parts = pc.unique(rows["map_part"].drop_null()).to_pylist()
    small = [part for part in parts if 2 * sizes.get(part, 0) < maps_bytes]
    if len(small) > 1:
        rows = _merge_maps(output, rows, small, new_name.removesuffix(".parquet"), maps_bytes)
    else:
        small = []
    write_predictions(output, new_name, rows)
    for name in names:
        delete(output, PREDICTIONS, name)
    # A maps part belongs to one predictions part: the writer makes pairs, and whole parts are merged.
    for part in small:
        delete(output, ANOMALY_MAPS, part)


def _merge_maps(output: str, rows: pa.Table, small: Sequence[str], stem: str, maps_bytes: int) -> pa.Table:
    """``rows`` with pointers into new maps parts, which hold the maps of the parts ``small``."""
    part = rows["map_part"].to_numpy().astype(object)
    row_group = rows["map_row_group"].fill_null(-1).to_numpy().astype(np.int32)
    moved = np.flatnonzero(pc.is_in(rows["map_part"], pa.array(small, pa.string())).to_numpy())
    pointers = [(str(part[row]), int(row_group[row]), str(rows["image_id"][row])) for row in moved.tolist()]
    maps = _read_maps(output, pointers)
    done = 0
    while done < len(moved):
        name = f"{stem}-{done:08x}.parquet"
        groups = 0

        def write(sink: Sink) -> None:
            nonlocal groups
            size = 0
            with maps_writer(sink) as writer:
                for one in maps:
                    writer.write_table(one)
                    groups += 1
                    size += one.nbytes
                    if size >= maps_bytes:
                        break

        write_atomically(join(output, ANOMALY_MAPS, name), write)
        written = moved[done : done + groups]
        part[written] = name
        row_group[written] = np.arange(groups)
        done += groups
    columns = {"map_part": pa.array(part, pa.string()), "map_row_group": pa.array(row_group, mask=row_group < 0)}
    for column, values in columns.items():
        rows = rows.set_column(rows.column_names.index(column), column, values)
    return rows


def _read_maps(output: str, pointers: Sequence[tuple[str, int, str]]) -> Iterator[pa.Table]:
    """The row of ``anomaly_maps`` behind every (part, row group, image id), one in memory at a time."""
    for name, wanted in groupby(pointers, key=lambda pointer: pointer[0]):
        with open_part(output, ANOMALY_MAPS, name) as part:
            for _, row_group, image_id in wanted:
                try:
                    one = conform(part.read_row_group(row_group), ANOMALY_MAPS_SCHEMA)
                    (found,) = one["image_id"].to_pylist()
                except (OSError, pa.ArrowException, IndexError) as error:
                    raise ZsadError(
                        f"Row group {row_group} of {name!r} is damaged or out of reach: {redact(str(error))}"
                    ) from error
                check_owner(found, image_id, name, row_group)
                yield one
