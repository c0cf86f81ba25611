"""What is committed, what is left to do, and which of several rows of one image is valid."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zsad.errors import UsageError
from zsad.storage.files import list_parts, read_part
from zsad.storage.schemas import PREDICTIONS, SUPERSEDING_COLUMNS

_READ_AHEAD = 4
_HASH_SLICE = 1 << 18
_HASH_KEYS = ("zsad image id 01", "zsad image id 02")
_UNKNOWN = -1


def committed_rows(output: str, columns: Sequence[str] = SUPERSEDING_COLUMNS) -> Iterator[tuple[str, pa.Table]]:
    """(name, some columns) of every committed part, oldest part first; few parts are in memory at once.

    Raises:
        ZsadError: a part is damaged.
    """
    names = list_parts(output, PREDICTIONS)
    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        pending: deque = deque()
        try:
            for name in names:
                pending.append((name, pool.submit(read_part, output, PREDICTIONS, name, list(columns))))
                if len(pending) > _READ_AHEAD:
                    ready, future = pending.popleft()
                    yield ready, future.result()
            for ready, future in pending:
                yield ready, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def work_left(manifest: pa.Table, output: str, fingerprint: str, retry_errors: bool = False) -> pa.Table:
    """The rows of a manifest that no committed row accounts for, in the manifest's order.

    A committed row accounts for an image when it has its id and the fingerprint, and was made from the
    same file (size and modification time equal, where both sides know them). Memory is about 50 bytes
    per row of the manifest beside the manifest and the result.

    Ids are joined by 64-bit hashes. Two ids of the manifest with one hash are found and hashed with
    another key; an id of the manifest and a committed one outside it collide with a probability below
    their numbers' product / 2^64: 5e-6 for ten million of each.

    Args:
        manifest: has the columns image_id, file_size and file_mtime; unique ids.
        output: folder or URI of the run.
        fingerprint: of this run; rows of another are not counted.
        retry_errors: whether rows with ``status=error`` are to be done again.

    Raises:
        UsageError: an id is twice in the manifest.
    """
    if manifest.num_rows == 0 or not list_parts(output, PREDICTIONS):
        return manifest
    key, order, ordered = _ordered_hashes(manifest["image_id"])
    size, mtime = _integers(manifest["file_size"]), _integers(manifest["file_mtime"])
    done = np.zeros(manifest.num_rows, np.bool_)
    for _, rows in committed_rows(output):
        counted = pc.equal(rows["fingerprint"], fingerprint)
        if retry_errors:
            counted = pc.and_(counted, pc.equal(rows["status"], "ok"))
        mine = rows.filter(counted)
        hashes = hash_ids(mine["image_id"], key)
        place = np.minimum(np.searchsorted(ordered, hashes), ordered.size - 1)
        known = ordered[place] == hashes
        index = order[place[known]]
        changed = _differ(size[index], _integers(mine["file_size"])[known])
        changed |= _differ(mtime[index], _integers(mine["file_mtime"])[known])
        done[index[~changed]] = True
    return manifest.filter(pa.array(~done)) if done.any() else manifest


def superseded(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows another row of the same image and fingerprint replaces.

    The newest row tells which version of the file is current. Among the rows of that version ``ok``
    comes before ``error``, then the newest wins.

    Args:
        rows: the columns ``SUPERSEDING_COLUMNS``, oldest part first.

    Returns:
        (N,) bool, False for exactly one row per image and fingerprint.
    """
    keys = ["image_id", "fingerprint"]
    repeated = rows.select(keys).to_pandas().duplicated(keys, keep=False).to_numpy()
    result = np.zeros(rows.num_rows, np.bool_)
    if not repeated.any():
        return result
    some = rows.filter(pa.array(repeated))
    frame = some.select(keys).to_pandas()
    frame["group"] = frame.groupby(keys, sort=False).ngroup()
    frame["position"] = np.arange(len(frame))
    newest = frame.groupby("group")["position"].transform("max").to_numpy()
    size, mtime = _integers(some["file_size"]), _integers(some["file_mtime"])
    frame["current"] = ~(_differ(size, size[newest]) | _differ(mtime, mtime[newest]))
    frame["ok"] = pc.equal(some["status"], "ok").to_numpy()
    ordered = frame.sort_values(["group", "current", "ok", "position"])
    valid = ordered.drop_duplicates("group", keep="last")["position"].to_numpy()
    replaced = np.ones(len(frame), np.bool_)
    replaced[valid] = False
    result[np.flatnonzero(repeated)] = replaced
    return result


def hash_ids(ids: pa.ChunkedArray, key: str = _HASH_KEYS[0]) -> NDArray[np.uint64]:
    """64-bit SipHash of every id, in slices, so that few of them are Python strings at a time."""
    hashes = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _HASH_SLICE):
        values = ids.slice(start, _HASH_SLICE).to_numpy().astype(object, copy=False)
        hashes[start : start + len(values)] = pd.util.hash_array(values, hash_key=key, categorize=False)
    return hashes


def _ordered_hashes(ids: pa.ChunkedArray) -> tuple[str, NDArray[np.intp], NDArray[np.uint64]]:
    """A key under which all hashes differ, the order that sorts them, and the sorted hashes."""
    for key in _HASH_KEYS:
        hashes = hash_ids(ids, key)
        order = np.argsort(hashes)
        hashes = hashes[order]
        equal = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not equal.size:
            return key, order, hashes
    raise UsageError(f"The manifest holds {ids[int(order[equal[0]])].as_py()!r} twice; expected unique image ids.")


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return column.fill_null(_UNKNOWN).to_numpy().astype(np.int64, copy=False)


def _differ(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (left != right) & (left != _UNKNOWN) & (right != _UNKNOWN)
