"""What the driver does to an output folder before and after a run, while it holds ``output_lock``."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zsad.errors import ZsadError
from zsad.filesystem import join, redact, resolve, retry_io
from zsad.id_hashes import hash_ids, repeated
from zsad.layout import ANOMALY_MAPS, LOCK_HOLDER, PREDICTIONS, RUN, SUCCESS, SUSPENDED_SUCCESS
from zsad.storage.committed import committed_rows, superseded
from zsad.storage.files import DamagedPart, delete, list_files, list_parts, open_part, read_part
from zsad.storage.run import clear_success
from zsad.storage.schemas import PREDICTIONS_SCHEMA, SUPERSEDING_COLUMNS
from zsad.storage.writer import run_of_file, write_predictions

_THREADS = 8
_WHOLE_FILES = (RUN, SUCCESS, SUSPENDED_SUCCESS, LOCK_HOLDER)
_LEFTOVER = re.compile(rf"\.({'|'.join(map(re.escape, _WHOLE_FILES))})\.[0-9a-f]{{8}}\.tmp")
"""What a killed write of one of these files leaves in the output itself."""


def drop_superseded(output: str, fingerprint: str) -> None:
    """Make a raw read of ``predictions`` hold every image once, and remove maps nobody points to.

    To be called by the driver after its own run has ended and before ``_SUCCESS``. Each part is replaced
    atomically and loses only rows that others replace, so being killed in between loses nothing. Maps parts
    that are in use stay as they are, so ``map_part`` and ``map_row_group`` stay valid; those without
    predictions, and temporary files, are what killed tasks left.

    Args:
        output: folder or URI of the run.
        fingerprint: of the run.

    Raises:
        ZsadError: a part is damaged or lacks its maps, or holds rows of another fingerprint.
    """
    for name, rows in _superseded_rows(output, fingerprint).items():
        table = read_part(output, PREDICTIONS, name, PREDICTIONS_SCHEMA.names)
        keep = np.ones(table.num_rows, np.bool_)
        keep[rows] = False
        if keep.any():
            write_predictions(output, name, table.filter(pa.array(keep)))
        else:
            delete(output, PREDICTIONS, name)
    _remove_orphans(output)


def broken_parts(output: str) -> list[str]:
    """Parts that cannot be used, as ``folder/name``. Changes nothing.

    That is: predictions parts that are not whole Parquet files with our columns, or whose maps part is missing
    or cut off; and maps parts that are cut off or not of this program. Our own writes are never cut off; copies
    and foreign files can be.

    Raises:
        ZsadError: a part cannot be reached, so there is no telling.
    """
    names = list_parts(output, PREDICTIONS)
    maps = list_parts(output, ANOMALY_MAPS)
    with ThreadPoolExecutor(_THREADS) as pool:
        whole = list(pool.map(lambda name: _ends_whole(output, name), maps))
        whole_maps = {name for name, fine in zip(maps, whole, strict=True) if fine}
        used = list(pool.map(lambda name: _maps_of(output, name), names))
    usable = [parts is not None and whole_maps.issuperset(parts) for parts in used]
    wanted = {part for parts in used if parts is not None for part in parts}
    foreign = {name for name in whole_maps - wanted if run_of_file(name) is None}
    broken = [f"{PREDICTIONS}/{name}" for name, fine in zip(names, usable, strict=True) if not fine]
    return broken + [f"{ANOMALY_MAPS}/{name}" for name in maps if name not in whole_maps or name in foreign]


def set_aside_broken(output: str) -> list[str]:
    """Rename ``broken_parts`` to ``.broken-...``, so that their images count as work; returns them.

    To be called by the driver before it plans its work. ``_SUCCESS`` goes first.

    Raises:
        ZsadError: a part cannot be reached; nothing is renamed then.
    """
    broken = broken_parts(output)
    if broken:
        clear_success(output)
    for part in broken:
        folder, name = part.split("/")
        filesystem, path = resolve(join(output, folder, name))
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
    several = repeated(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    if not several.size:
        return {}
    names, positions, candidates = [], [], []
    for name, rows in committed_rows(output, SUPERSEDING_COLUMNS):
        position = np.flatnonzero(np.isin(hash_ids(rows["image_id"]), several))
        names += [name] * position.size
        positions += position.tolist()
        candidates.append(rows.take(pa.array(position)))
    result: dict[str, list[int]] = {}
    for index in np.flatnonzero(superseded(pa.concat_tables(candidates))).tolist():
        result.setdefault(names[index], []).append(positions[index])
    return result


def _remove_orphans(output: str) -> None:
    used: set[str] = set()
    for _, rows in committed_rows(output, ["map_part"]):
        used.update(pc.unique(rows["map_part"].drop_null()).to_pylist())
    present = list_parts(output, ANOMALY_MAPS)
    missing = used.difference(present)
    if missing:
        raise ZsadError(f"The maps part {min(missing)!r} is missing. Running the same command again scores its images.")
    for name in present:
        if name not in used and run_of_file(name) is not None:
            delete(output, ANOMALY_MAPS, name)
    for folder in (PREDICTIONS, ANOMALY_MAPS):
        for info in list_files(join(output, folder)):
            if info.base_name.endswith(".tmp") and run_of_file(info.base_name) is not None:
                delete(output, folder, info.base_name)
    for info in list_files(output):
        if _LEFTOVER.fullmatch(info.base_name):
            delete(output, info.base_name)


def _ends_whole(output: str, name: str) -> bool:
    filesystem, path = resolve(join(output, ANOMALY_MAPS, name))

    def look() -> bool:
        with filesystem.open_input_file(path) as file:
            size = file.size()
            return bool(size > 8 and file.read_at(4, size - 4) == b"PAR1")

    try:
        return retry_io(look)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ZsadError(f"Cannot read the maps part {name!r}: {redact(str(error))}") from error


def _maps_of(output: str, name: str) -> list[str] | None:
    """The maps parts that a predictions part points to; None when it cannot be used."""
    try:
        with open_part(output, PREDICTIONS, name) as part:
            if part.schema_arrow.names != PREDICTIONS_SCHEMA.names:
                return None
        column = read_part(output, PREDICTIONS, name, ["map_part"])["map_part"]
    except (DamagedPart, UnicodeDecodeError):
        return None
    found: list[str] = pc.unique(column.drop_null()).to_pylist()
    return found
