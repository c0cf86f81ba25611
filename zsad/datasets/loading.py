"""One door to all datasets: where it is and what it is -> a manifest table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from zsad.datasets.files import stat
from zsad.datasets.folder import read_folder
from zsad.datasets.manifest import DEFAULT_SPLIT, build, collapse_duplicates, select
from zsad.datasets.manifest_file import find_manifest_file, read_manifest_file
from zsad.datasets.mvtec import read_mvtec
from zsad.datasets.visa import read_visa
from zsad.errors import UsageError
from zsad.filesystem import is_local, redact

DATASETS = ("visa", "mvtec", "folder", "manifest")
_MEAN = "mean"


def load_manifest(
    dataset: str,
    root: str,
    *,
    split: str | None = DEFAULT_SPLIT,
    categories: Sequence[str] = (),
    limit: int | None = None,
    object_name: str | None = None,
    class_names: Mapping[str, str] = MappingProxyType({}),
    allow_outside_root: bool = False,
) -> pa.Table:
    """List the images of a dataset as a table of ``MANIFEST_SCHEMA``, in a stable order.

    No image is opened. An image that does not exist stays in the table with null size and becomes an
    error row when it is scored. Images whose ``file_size`` a manifest file gives are not looked up: that size and its
    ``file_mtime`` are taken as they are, null or not. (Local paths are still checked for links that leave the root.)

    Args:
        dataset: ``visa``, ``mvtec``, ``folder`` or ``manifest``.
        root: local path or ``s3://``, ``gs://`` URI of the dataset's folder, or of the manifest file.
        split: rows of this split; ``None`` or ``"all"`` = every row, and so is the default where there are no splits.
        categories: these categories only; empty = all.
        limit: at most so many rows, from the start.
        object_name: the noun of a folder, or of manifest rows without class name and category.
        class_names: noun per category, over the default table.
        allow_outside_root: allow paths and links that leave the root.

    Returns:
        Table with unique ``image_id`` (the manifest's own, or the POSIX path relative to the root).

    Raises:
        UsageError: anything about the dataset that scoring could not mend; the message says what was
            given, what was expected and how to fix it.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}. Expected a number of images of at least 1, or none for all images.")
    table, folder = _read(dataset, root, object_name, class_names, allow_outside_root)
    _warn_of_unused(class_names, table, redact(root))
    table = select(table, split, categories, redact(root))
    table = collapse_duplicates(table)
    if pc.any(pc.equal(table["category"], _MEAN)).as_py():
        raise UsageError(
            f"A category of {redact(root)!r} is named {_MEAN!r}, which in tables of metrics is the mean over the categories. "
            "Expected another name; rename it."
        )
    if limit is not None:
        table = table.slice(0, limit)
    if dataset != "manifest" and table["file_size"].null_count < len(table):
        # The listing that found the images gave their sizes, and left out links that leave the root.
        return table
    return _look_up(table, folder, allow_outside_root)


def _warn_of_unused(class_names: Mapping[str, str], table: pa.Table, root: str) -> None:
    """A noun for a category that is not there is mostly misspelt, or meant for another dataset."""
    known = pc.unique(table["category"].drop_null()).to_pylist()
    unused = [name for name in class_names if name not in known]
    if unused:
        has = f"its categories are {', '.join(known[:20])}" if known else "it has no categories"
        warnings.warn(f"prompts.class_names names {unused[0]!r}, which is not in {root}: {has}.", stacklevel=3)


def _look_up(table: pa.Table, folder: str, allow_outside_root: bool) -> pa.Table:
    """The table with size and time of the images that have no size; no local path is a link that leaves the folder."""
    unknown = pc.is_null(table["file_size"])
    # Called only because it raises for links that leave the root. Remote stores have no links.
    if is_local(folder) and not allow_outside_root:
        known = table["image_path"].filter(pc.invert(unknown))
        for paths in (table["mask_path"], table["foreground_path"], known):
            stat(paths.drop_null().to_pylist(), root=folder, allow_outside_root=False)
    images = table["image_path"].filter(unknown)
    if not len(images):
        return table
    found = stat(images.to_pylist(), root=folder, allow_outside_root=allow_outside_root)
    columns = {name: table[name] for name in table.column_names}
    for name, values in zip(("file_size", "file_mtime"), found, strict=True):
        columns[name] = pc.replace_with_mask(table[name].combine_chunks(), unknown.combine_chunks(), values)
    return build(columns)


def _read(
    dataset: str, root: str, object_name: str | None, class_names: Mapping[str, str], allow_outside_root: bool
) -> tuple[pa.Table, str]:
    """All rows of the dataset, and the folder that its paths must not leave."""
    if dataset == "folder":
        return read_folder(root, object_name=object_name, allow_outside_root=allow_outside_root), root
    if dataset == "manifest":
        uri, folder = find_manifest_file(root)
        table = read_manifest_file(
            uri, folder, object_name=object_name, class_names=class_names, allow_outside_root=allow_outside_root
        )
        return table, folder
    if dataset not in DATASETS:
        raise UsageError(f"Unknown dataset {dataset!r}. Expected one of {', '.join(DATASETS)}.")
    if object_name is not None:
        raise UsageError(
            f"An object name ({object_name!r}) was given for dataset {dataset!r}, whose nouns follow its "
            "categories. Leave --object out; to change a noun use --set prompts.class_names.CATEGORY=NOUN."
        )
    read = read_visa if dataset == "visa" else read_mvtec
    return read(root, class_names=class_names, allow_outside_root=allow_outside_root), root
