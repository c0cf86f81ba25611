"""VisA in its three layouts: the original csv, re-organised folders, and ``meta.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
        follow_outside=allow_outside_root,
    )


def _from_csv(root: str, class_names: Mapping[str, str], allow_outside_root: bool) -> pa.Table:
    uri = join(root, SPLIT_CSV)
    table = read_table(uri, ["object", "split", "label", "image", "mask"], [])
    return _assemble(
        root,
        class_names,
        allow_outside_root,
        where=uri,
        category=table["object"],
        split=table["split"],
        label=table["label"],
        image=table["image"],
        mask=table["mask"],
    )


def _from_meta(root: str, class_names: Mapping[str, str], allow_outside_root: bool) -> pa.Table:
    uri = join(root, META_JSON)
    try:
        meta = json.loads(read_bytes(uri, _MAX_META_BYTES))
        rows = [
            (split, category, str(item["img_path"]), str(item.get("mask_path") or ""), item["anomaly"])
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
    split, category, image, mask, label = (
        _texts([str(value) for value in values]) for values in zip(*rows, strict=True)
    )
    return _assemble(
        root,
        class_names,
        allow_outside_root,
        where=uri,
        category=category,
        split=split,
        label=label,
        image=image,
        mask=mask,
    )


def _texts(values: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([value or None for value in values], pa.string())])


def _assemble(
    root: str,
    class_names: Mapping[str, str],
    allow_outside_root: bool,
    *,
    where: str,
    category: pa.ChunkedArray,
    split: pa.ChunkedArray,
    label: pa.ChunkedArray,
    image: pa.ChunkedArray,
    mask: pa.ChunkedArray,
) -> pa.Table:
    required: dict[str, Any] = {"object": category, "split": split, "label": label, "image": image}
    for name, values in required.items():
        if values.null_count:
            row = pc.index(pc.is_null(values), True).as_py() + 1
            raise UsageError(f"Row {row} of {redact(where)!r} has no {name}. Fill it, or take the row out.")
    relative, located = confine(image, root, column="image", allow_outside=allow_outside_root)
    labels = read_labels(label, where)
    _, masks = confine(mask, root, column="mask", allow_outside=allow_outside_root)
    categories = pc.unique(category)
    nouns = pa.array([noun_for(name, class_names) for name in categories.to_pylist()], pa.string())
    return build(
        {
            "image_id": relative,
            "image_path": located,
            "category": category,
            "class_name": nouns.take(pc.index_in(category, categories)),
            "split": split,
            "gt_label": labels,
            "mask_path": pc.if_else(pc.equal(labels, 1), masks, None),
        }
    )
