"""What the driver does to an output folder before and after a run, while no other run writes to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zsad.errors import ZsadError
from zsad.filesystem import join, redact, resolve
from zsad.storage.committed import committed_rows, hash_ids, superseded
from zsad.storage.files import DamagedPart, delete, list_files, list_parts, open_part, read_part
from zsad.storage.schemas import ANOMALY_MAPS, PREDICTIONS, PREDICTIONS_SCHEMA, SUPERSEDING_COLUMNS
from zsad.storage.writer import run_of_file, started_at, write_predictions

_THREADS = 8
_LONGEST_RUN = timedelta(hours=24)
"""An older run counts as ended when its leftovers are removed."""


@dataclass(frozen=True)
class Cleanup:
    """What ``drop_superseded`` did: numbers of rows and files."""

    rows_dropped: int
    parts_rewritten: int
    parts_removed: int
    maps_removed: int


def drop_superseded(output: str, fingerprint: str, run_id: str | None = None) -> Cleanup:
    """Make a raw read of ``predictions`` hold every image once, and remove maps nobody points to.

    To be called by the driver after its own run has finished and before ``_SUCCESS``. Each part is
    replaced atomically and loses only rows that others replace, so being killed in between loses
    nothing. Parts of the maps stay as they are, so ``map_part`` and ``map_row_group`` stay valid.

    A maps part without predictions, or a temporary file, may belong to a task of another driver that is
    running now. Removed are those of ``run_id`` and of runs that began more than 24 hours ago, and maps
    parts of which this call dropped the last row: their task has committed.

    Args:
        output: folder or URI of the run.
        fingerprint: of the run.
        run_id: of the caller's own run, which has ended; None when it ran nothing.

    Raises:
        ZsadError: a part is damaged, or holds rows of another fingerprint.
    """
    dropped = rewritten = removed = 0
    released: set[str] = set()
    for name, rows in _superseded_rows(output, fingerprint).items():
        table = read_part(output, PREDICTIONS, name, PREDICTIONS_SCHEMA.names)
        keep = np.ones(table.num_rows, np.bool_)
        keep[rows] = False
        dropped += len(rows)
        released.update(table["map_part"].filter(pa.array(~keep)).drop_null().to_pylist())
        if keep.any():
            write_predictions(output, name, table.filter(pa.array(keep)))
            rewritten += 1
        else:
            delete(output, PREDICTIONS, name)
            removed += 1
    return Cleanup(dropped, rewritten, removed, _remove_orphans(output, run_id, released))


def set_aside_broken(output: str) -> list[str]:
    """Rename predictions parts that cannot be used to ``.broken-...``, so that their images count as work.

    That is: parts that are not whole Parquet files with our columns, and parts whose maps part is missing
    or cut off. Our own writes are never cut off; copies and foreign files can be. To be called by the
    driver before it plans its work.

    Returns:
        Names of the parts that were set aside.
    """
    names = list_parts(output, PREDICTIONS)
    maps = list_parts(output, ANOMALY_MAPS)
    with ThreadPoolExecutor(_THREADS) as pool:
        whole = list(pool.map(lambda name: _ends_whole(output, name), maps))
        whole_maps = {name for name, fine in zip(maps, whole, strict=True) if fine}
        usable = list(pool.map(lambda name: _is_usable(output, name, whole_maps), names))
    broken = [name for name, fine in zip(names, usable, strict=True) if not fine]
    for name in broken:
        filesystem, path = resolve(join(output, PREDICTIONS, name))
        filesystem.move(path, f"{path.removesuffix(name)}.broken-{name}")
    return broken


def _superseded_rows(output: str, fingerprint: str) -> dict[str, list[int]]:
    """Part name -> positions of its superseded rows, for the parts that have any."""
    hashes = []
    for name, rows in committed_rows(output, ["image_id", "fingerprint"]):
        if not pc.all(pc.equal(rows["fingerprint"], fingerprint)).as_py():
            raise ZsadError(
                f"The part {redact(join(output, PREDICTIONS, name))!r} holds rows of another configuration than "
                "this run's. Move it away, or use another --output."
            )
        hashes.append(hash_ids(rows["image_id"]))
    every = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    repeated = np.unique(every[1:][every[1:] == every[:-1]])
    if not repeated.size:
        return {}
    names, positions, candidates = [], [], []
    for name, rows in committed_rows(output, SUPERSEDING_COLUMNS):
        position = np.flatnonzero(np.isin(hash_ids(rows["image_id"]), repeated))
        names += [name] * position.size
        positions += position.tolist()
        candidates.append(rows.take(pa.array(position)))
    result: dict[str, list[int]] = {}
    for index in np.flatnonzero(superseded(pa.concat_tables(candidates))).tolist():
        result.setdefault(names[index], []).append(positions[index])
    return result


def _remove_orphans(output: str, run_id: str | None, released: set[str]) -> int:
    used = set()
    for _, rows in committed_rows(output, ["map_part"]):
        used.update(pc.unique(rows["map_part"]).to_pylist())
    unused = [name for name in list_parts(output, ANOMALY_MAPS) if name not in used]
    orphans = [name for name in unused if name in released or _has_ended(name, run_id)]
    for name in orphans:
        delete(output, ANOMALY_MAPS, name)
    for folder in (PREDICTIONS, ANOMALY_MAPS):
        for info in list_files(join(output, folder)):
            if info.base_name.endswith(".tmp") and _has_ended(info.base_name, run_id):
                delete(output, folder, info.base_name)
    return len(orphans)


def _has_ended(name: str, run_id: str | None) -> bool:
    """Whether the run that wrote the file is ``run_id`` or began long ago; False where the name does not say."""
    run = run_of_file(name)
    if run is None or run == run_id:
        return run is not None
    start = started_at(run)
    return start is not None and datetime.now(timezone.utc) - start > _LONGEST_RUN


def _ends_whole(output: str, name: str) -> bool:
    filesystem, path = resolve(join(output, ANOMALY_MAPS, name))
    try:
        with filesystem.open_input_file(path) as file:
            size = file.size()
            return bool(size > 8 and file.read_at(4, size - 4) == b"PAR1")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ZsadError(f"Cannot read the maps part {name!r}: {redact(str(error))}") from error


def _is_usable(output: str, name: str, whole_maps: set[str]) -> bool:
    try:
        with open_part(output, PREDICTIONS, name) as part:
            if part.schema_arrow.names != PREDICTIONS_SCHEMA.names:
                return False
        used = pc.unique(read_part(output, PREDICTIONS, name, ["map_part"])["map_part"]).to_pylist()
    except DamagedPart:
        return False
    return whole_maps.issuperset(part for part in used if part is not None)
