"""VisA in its three layouts: the original csv, re-organised folders, and ``meta.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from zsad.datasets.class_folders import read_class_folders
from zsad.datasets.files import check_folder
from zsad.datasets.manifest import build
from zsad.datasets.nouns import noun_for
from zsad.datasets.paths import confine
from zsad.datasets.tables import read_labels, read_table
from zsad.errors import ImageError, UsageError
from zsad.filesystem import exists, join, read_bytes, redact

SPLIT_CSV = "split_csv/1cls.csv"
META_JSON = "meta.json"
_MAX_META_BYTES = 256 * 1024**2
_COLUMNS = ("object", "split", "label", "image", "mask")
"""Of the original csv; a mask may be missing."""
_LAYOUTS = (
    f"one of VisA's layouts: {SPLIT_CSV} (original), {META_JSON}, or "
    "[1cls/]<class>/{train/good, test/good, test/bad, ground_truth/bad} (re-organised)"
)


def read_visa(root: str, *, class_names: Mapping[str, str], allow_outside_root: bool = False) -> pa.Table:
    """A manifest of VisA, all splits; the layout is found by looking.

    Masks hold small integers: anomalous is ``mask != 0``.

    Raises:
        UsageError: the root is missing or has none of the three layouts; the csv or json is malformed.
    """
    check_folder(root)
    if exists(join(root, SPLIT_CSV)):
        return _from_csv(root, class_names, allow_outside_root)
    if exists(join(root, META_JSON)):
        return _from_meta(root, class_names, allow_outside_root)
    return read_class_folders(
        root,
        class_names=class_names,
        expected=_LAYOUTS,
        below="1cls" if exists(join(root, "1cls")) else "",
        allow_outside_root=allow_outside_root,
    )


def _from_csv(root: str, class_names: Mapping[str, str], allow_outside_root: bool) -> pa.Table:
    uri = join(root, SPLIT_CSV)
    return _assemble(read_table(uri, _COLUMNS, []), uri, root, class_names, allow_outside_root)


def _from_meta(root: str, class_names: Mapping[str, str], allow_outside_root: bool) -> pa.Table:
    uri = join(root, META_JSON)
    try:
        meta = json.loads(read_bytes(uri, _MAX_META_BYTES))
        rows = [
            (category, split, str(item["anomaly"]), str(item["img_path"]), str(item.get("mask_path") or ""))
            for split, classes in meta.items()
            for category, items in classes.items()
            for item in items
        ]
    except (ImageError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"Cannot read {redact(uri)!r}: {type(error).__name__} {error}. "
            "Expected {split: {class: [{img_path, mask_path, cls_name, specie_name, anomaly}]}}."
        ) from None
    if not rows:
        raise UsageError(f"{redact(uri)!r} lists no image.")
    columns = zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    table = pa.table({name: pa.array([value or None for value in values], pa.string()) for name, values in columns})
    return _assemble(table, uri, root, class_names, allow_outside_root)


def _assemble(
    table: pa.Table, uri: str, root: str, class_names: Mapping[str, str], allow_outside_root: bool
) -> pa.Table:
    """The manifest of a table of texts with ``_COLUMNS``, read from ``uri``."""
    for name in _COLUMNS[:-1]:
        if table[name].null_count:
            row = pc.index(pc.is_null(table[name]), True).as_py() + 1
            raise UsageError(f"Row {row} of {redact(uri)!r} has no {name}. Fill it, or take the row out.")
    relative, located = confine(table["image"], root, column="image", allow_outside_root=allow_outside_root)
    labels = read_labels(table["label"], uri)
    _, masks = confine(table["mask"], root, column="mask", allow_outside_root=allow_outside_root)
    categories = pc.unique(table["object"])
    nouns = pa.array([noun_for(name, class_names) for name in categories.to_pylist()], pa.string())
    return build(
        {
            "image_id": relative,
            "image_path": located,
            "category": table["object"],
            "class_name": nouns.take(pc.index_in(table["object"], categories)),
            "split": table["split"],
            "gt_label": labels,
            "mask_path": pc.if_else(pc.equal(labels, 1), masks, None),
        }
    )
