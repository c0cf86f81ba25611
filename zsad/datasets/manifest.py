"""The manifest: one table for every dataset, one row per input image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zsad.errors import UsageError
from zsad.filesystem import redact
from zsad.id_hashes import hash_ids, repeated
from zsad.text import count

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("image_path", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("class_name", pa.string()),
        pa.field("split", pa.string()),
        pa.field("gt_label", pa.int8()),
        pa.field("mask_path", pa.string()),
        pa.field("foreground_path", pa.string()),
        pa.field("file_size", pa.int64()),
        pa.field("file_mtime", pa.int64()),
    ]
)
"""Columns of a manifest.

``image_path``, ``mask_path`` and ``foreground_path`` are absolute paths or full URIs; ``class_name`` is
the noun put into the prompts; ``gt_label`` is 0 normal, 1 anomalous, null unknown; ``file_size`` is in
bytes and ``file_mtime`` in nanoseconds since the epoch, both null when the file was not found.
"""
_Rows = NDArray[np.int64]

_SAID = ("category", "class_name", "split", "gt_label", "mask_path", "foreground_path")
"""What several rows of one image must agree on, beside its path."""
DEFAULT_SPLIT = "test"
_NULLS = 1 << 16
"""Rows in a chunk of nulls. A column without any value repeats one such chunk, so that all its rows share the memory."""


def build(columns: Mapping[str, Any]) -> pa.Table:
    """A manifest table from some of its columns (Arrow arrays or sequences of equal length).

    Columns that are not given are null.
    """
    length = len(columns["image_id"])
    arrays = []
    for field in MANIFEST_SCHEMA:
        values = columns.get(field.name)
        if values is None:
            arrays.append(_nulls(length, field.type))
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            arrays.append(values.cast(field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.table(arrays, schema=MANIFEST_SCHEMA)


def select(table: pa.Table, split: str | None, categories: Sequence[str], where: str) -> pa.Table:
    """The rows of a split and of some categories, in the manifest's order.

    Args:
        table: a manifest.
        split: ``None`` or ``"all"`` keeps every row, and so does ``DEFAULT_SPLIT`` where no row has a split.
        categories: empty keeps all of them.
        where: the dataset's root, for messages.

    Raises:
        UsageError: a category or the split does not exist, or a category has no image in the split.
    """
    known = pc.unique(table["category"].drop_null()).to_pylist()
    unknown = [category for category in categories if category not in known]
    if unknown:
        raise UsageError(
            f"No category {_quoted(unknown)} in {where}. "
            + (f"It has: {', '.join(known)}." if known else "It has no categories; leave --category out.")
        )
    if categories:
        table = table.filter(pc.is_in(table["category"], pa.array(categories, pa.string())))
    splits = pc.unique(table["split"].drop_null()).to_pylist()
    if not splits and split not in (None, "all", DEFAULT_SPLIT):
        raise UsageError(f"No image of split {split!r} in {where}. It has no splits; leave --split out.")
    if split in (None, "all") or not splits:
        return table
    if split not in splits:
        raise UsageError(
            f"No image of split {split!r} in {where}. It has: {', '.join(sorted(splits))}; "
            "choose one with --split, or --split all."
        )
    if table["split"].null_count:
        warnings.warn(
            f"Left out {count(table['split'].null_count, 'row')} of {where} without a split "
            f"(split {split!r} was asked for; --split all takes every row).",
            stacklevel=2,
        )
    kept = table.filter(pc.equal(table["split"], split))
    present = set(pc.unique(kept["category"]).to_pylist())
    empty = [category for category in categories or known if category not in present]
    if empty:
        full = [category for category in known if category in present]
        raise UsageError(
            f"Category {_quoted(empty)} of {where} has no image of split {split!r}. "
            f"These have: {', '.join(full)}; name them with --category, or choose another --split."
        )
    return kept


def collapse_duplicates(table: pa.Table) -> pa.Table:
    """One row per ``image_id``: the first, with a warning, where nothing but size and time differs.

    Raises:
        UsageError: one id stands for several paths, or for rows that say different things of one image; the message
            lists the first five.
    """
    hashes = hash_ids(table["image_id"])
    several = repeated(hashes)
    if not len(several):
        return table
    candidates = np.flatnonzero(np.isin(hashes, several))
    numbered = table.select(["image_id", "image_path"]).take(pa.array(candidates))
    numbered = numbered.append_column("row", pa.array(candidates))
    groups = numbered.group_by("image_id", use_threads=False).aggregate(
        [("image_path", "count_distinct"), ("row", "min")]
    )
    clashing = groups.filter(pc.greater(groups["image_path_count_distinct"], 1))["image_id"]
    if len(clashing):
        shown = []
        for image_id in clashing.slice(0, 5).to_pylist():
            paths = pc.unique(numbered.filter(pc.equal(numbered["image_id"], image_id))["image_path"]).to_pylist()
            shown.append(f"  {image_id!r}: {', '.join(repr(path) for path in paths[:3])}")
        raise UsageError(
            f"{count(len(clashing), 'image_id value stands', 'image_id values stand')} for several paths; "
            "an image_id must name one image. Make them unique, or leave the image_id column out to use the paths. First five:\n"
            + "\n".join(shown)
        )
    dropped = np.setdiff1d(candidates, groups["row_min"].to_numpy())
    if not len(dropped):
        return table
    group = pc.index_in(table["image_id"].take(pa.array(dropped)), value_set=groups["image_id"].combine_chunks())
    _require_same(table, dropped, groups["row_min"].take(group).to_numpy())
    warnings.warn(
        f"Collapsed {count(len(dropped), 'repeated row')} (each says the same as an earlier one).",
        stacklevel=2,
    )
    keep = np.ones(len(table), np.bool_)
    keep[dropped] = False
    return table.filter(pa.array(keep))


def _require_same(table: pa.Table, rows: _Rows, firsts: _Rows) -> None:
    """Raise UsageError where a row does not say the same of its image as the row of ``firsts`` beside it."""
    differing = {name: _differing(table[name], rows, firsts) for name in _SAID}
    somewhere = np.flatnonzero(np.logical_or.reduce(list(differing.values())))
    if not len(somewhere):
        return
    # One line per image, of its first row that differs.
    _, unique = np.unique(firsts[somewhere], return_index=True)
    shown = []
    for at in somewhere[unique[:5]]:
        what = [
            f"{name} {_shown(table[name][int(firsts[at])])} and {_shown(table[name][int(rows[at])])}"
            for name, differs in differing.items()
            if differs[at]
        ]
        shown.append(f"  {table['image_id'][int(rows[at])].as_py()!r}: {', '.join(what)}")
    raise UsageError(
        f"{count(len(unique), 'image is', 'images are')} listed by several rows that differ. Expected one row per image, "
        "or equal ones; correct them, or take the wrong ones out. First five:\n" + "\n".join(shown)
    )


def _differing(values: pa.ChunkedArray, rows: _Rows, others: _Rows) -> NDArray[np.bool_]:
    """Whether the value at each of ``rows`` is another than that beside it at ``others``; null equals null."""
    if values.null_count == len(values):
        return np.zeros(len(rows), np.bool_)
    here, there = values.take(pa.array(rows)), values.take(pa.array(others))
    one_null = pc.not_equal(pc.is_null(here), pc.is_null(there))
    return pc.or_(one_null, pc.fill_null(pc.not_equal(here, there), False)).to_numpy()


def _shown(value: pa.Scalar) -> str:
    if not value.is_valid:
        return "none"
    return repr(redact(value.as_py())) if isinstance(value.as_py(), str) else str(value.as_py())


def _nulls(length: int, kind: pa.DataType) -> pa.ChunkedArray:
    whole, rest = divmod(length, _NULLS)
    chunk = pa.nulls(_NULLS if whole else rest, kind)
    return pa.chunked_array([chunk] * whole + [chunk.slice(0, rest)], kind)


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
