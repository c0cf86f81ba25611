"""What is committed, what is left to do, and which of several rows of one image is valid."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zsad.errors import UsageError
from zsad.id_hashes import KEYS, hash_ids
from zsad.layout import PREDICTIONS
from zsad.storage.files import list_parts, read_part
from zsad.storage.schemas import SUPERSEDING_COLUMNS

_READ_AHEAD = 4
_UNKNOWN = -1
_ABSENT = -2
_NO_ROW, _OK, _FIRST_REASON = 0, 1, 2


def committed_rows(output: str, columns: Sequence[str] = SUPERSEDING_COLUMNS) -> Iterator[tuple[str, pa.Table]]:
    """(name, some columns) of every committed part, oldest part first; few parts are in memory at once.

    Raises:
        ZsadError: a part is damaged or out of reach.
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


@dataclass(frozen=True)
class Counts:
    """How the rows of a table stand to a manifest.

    Attributes:
        images: images of the manifest that a row accounts for; ok, errors: those by ``status``.
        reasons: "stage/type" -> number of errors, most frequent first.
        others: rows of images outside the manifest.
    """

    images: int
    ok: int
    errors: int
    reasons: Mapping[str, int]
    others: int


def work_left(manifest: pa.Table, output: str, fingerprint: str, retry_errors: bool = False) -> pa.Table:
    """The rows of a manifest that no committed row accounts for, in the manifest's order.

    A committed row accounts for an image when it has its id and the fingerprint, and was made from the
    same version: the same ``class_name``, and the same size and modification time where both sides know
    them. An error row that knows no size tells of a file that was not there, so it does not account for
    a file whose size the manifest knows. Where the newest row of an image is of another version, the
    older ones do not count, as in ``superseded``. Memory is about 50 bytes per row of the manifest
    beside the manifest and the result.

    Ids are joined by 64-bit hashes. Two ids of the manifest with one hash are found and hashed with
    another key; an id of the manifest and a committed one outside it collide with a probability below
    their numbers' product / 2^64: 5e-6 for ten million of each.

    Args:
        manifest: has the columns image_id, class_name, file_size and file_mtime; unique ids.
        output: folder or URI of the run.
        fingerprint: of this run; rows of another are not counted.
        retry_errors: whether rows with ``status=error`` are to be done again.

    Raises:
        UsageError: an id is twice in the manifest.
    """
    if manifest.num_rows == 0 or not list_parts(output, PREDICTIONS):
        return manifest
    state, _, _ = _account(manifest, output, fingerprint)
    left = state != _OK if retry_errors else state == _NO_ROW
    return manifest if left.all() else manifest.filter(pa.array(left))


def count_rows(manifest: pa.Table, output: str, fingerprint: str) -> Counts:
    """What the table says about the images of a manifest; arguments, rule and errors as ``work_left``.

    ``images`` and the rows of ``work_left`` are together the rows of the manifest. An image with several
    rows counts once; ``others`` counts rows, superseded ones too.
    """
    state, reasons, others = _account(manifest, output, fingerprint)
    tally = np.bincount(state, minlength=_FIRST_REASON + len(reasons)).tolist()
    by_reason = Counter(dict(zip(reasons, tally[_FIRST_REASON:], strict=True)))
    ok, errors = tally[_OK], by_reason.total()
    return Counts(
        ok + errors, ok, errors, {reason: count for reason, count in by_reason.most_common() if count}, others
    )


def _account(manifest: pa.Table, output: str, fingerprint: str) -> tuple[NDArray[np.int32], list[str], int]:
    """State of every image of the manifest, the reasons of errors, and the number of rows of other images.

    A state is ``_NO_ROW``, ``_OK``, or ``_FIRST_REASON`` plus the position in the reasons.
    """
    key, order, ordered = _ordered_hashes(manifest["image_id"])
    size, mtime = _integers(manifest["file_size"]), _integers(manifest["file_mtime"])
    nouns = pc.unique(manifest["class_name"].cast(pa.string()).fill_null(""))
    noun = _codes(manifest["class_name"], nouns)
    state = np.full(manifest.num_rows, _NO_ROW, np.int32)
    reasons: dict[str, int] = {}
    others = 0
    for _, rows in committed_rows(output, [*SUPERSEDING_COLUMNS, "error_stage", "error_type"]):
        mine = rows.filter(pc.equal(rows["fingerprint"], fingerprint))
        hashes = hash_ids(mine["image_id"], key)
        place = np.searchsorted(ordered, hashes)
        known = np.zeros(place.size, np.bool_)
        inside = place < ordered.size
        known[inside] = ordered[place[inside]] == hashes[inside]
        others += int(place.size - known.sum())
        mine, index = mine.filter(pa.array(known)), order[place[known]]
        changed = noun[index] != _codes(mine["class_name"], nouns)
        changed |= _differ(size[index], _sizes(mine))
        changed |= _differ(mtime[index], _integers(mine["file_mtime"]))
        ok = pc.equal(mine["status"], "ok").to_numpy()
        state[index[changed]] = _NO_ROW
        state[index[ok & ~changed]] = _OK
        failed = ~ok & ~changed & (state[index] != _OK)
        state[index[failed]] = _reason_codes(mine.filter(pa.array(failed)), reasons)
    return state, list(reasons), others


def superseded(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows another row of the same image and fingerprint replaces.

    The newest row tells which version is current, in the sense of ``work_left``. Among the rows of that
    version ``ok`` comes before ``error``, then the newest wins.

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
    size, mtime = _sizes(some), _integers(some["file_mtime"])
    noun = _codes(some["class_name"], pc.unique(some["class_name"].fill_null("")))
    frame["current"] = ~(_differ(size, size[newest]) | _differ(mtime, mtime[newest]) | (noun != noun[newest]))
    frame["ok"] = pc.equal(some["status"], "ok").to_numpy()
    ordered = frame.sort_values(["group", "current", "ok", "position"])
    valid = ordered.drop_duplicates("group", keep="last")["position"].to_numpy()
    replaced = np.ones(len(frame), np.bool_)
    replaced[valid] = False
    result[np.flatnonzero(repeated)] = replaced
    return result


def _ordered_hashes(ids: pa.ChunkedArray) -> tuple[str, NDArray[np.intp], NDArray[np.uint64]]:
    """A key under which all hashes differ, the order that sorts them, and the sorted hashes."""
    for key in KEYS:
        hashes = hash_ids(ids, key)
        order = np.argsort(hashes)
        hashes = hashes[order]
        equal = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not equal.size:
            return key, order, hashes
    raise UsageError(f"The manifest holds {ids[int(order[equal[0]])].as_py()!r} twice; expected unique image ids.")


def _codes(class_names: pa.ChunkedArray, nouns: pa.Array) -> NDArray[np.int32]:
    """Position of every noun in ``nouns``, -1 for others; null is the empty noun, as in scoring."""
    found = pc.index_in(class_names.cast(pa.string()).fill_null(""), value_set=nouns)
    return found.fill_null(-1).to_numpy().astype(np.int32, copy=False)


def _reason_codes(failed: pa.Table, reasons: dict[str, int]) -> list[int]:
    """State of every error row; reasons that are new are added to ``reasons``."""
    stages, types = (failed[name].fill_null("unknown").to_pylist() for name in ("error_stage", "error_type"))
    return [
        reasons.setdefault(f"{stage}/{kind}", _FIRST_REASON + len(reasons))
        for stage, kind in zip(stages, types, strict=True)
    ]


def _sizes(rows: pa.Table) -> NDArray[np.int64]:
    """File sizes of committed rows; ``_ABSENT``, which differs from every known size, on errors without one."""
    size = _integers(rows["file_size"])
    return np.where((size == _UNKNOWN) & pc.equal(rows["status"], "error").to_numpy(), _ABSENT, size)


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return column.fill_null(_UNKNOWN).to_numpy().astype(np.int64, copy=False)


def _differ(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (left != right) & (left != _UNKNOWN) & (right != _UNKNOWN)
