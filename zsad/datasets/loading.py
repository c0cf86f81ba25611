"""One door to all datasets: where it is and what it is -> a manifest table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa

from zsad.datasets.files import stat
from zsad.datasets.folder import read_folder
from zsad.datasets.manifest import build, collapse_duplicates, select
from zsad.datasets.manifest_file import find_manifest_file, read_manifest_file
from zsad.datasets.mvtec import read_mvtec
from zsad.datasets.visa import read_visa
from zsad.errors import UsageError
from zsad.filesystem import is_local, redact

DATASETS = ("visa", "mvtec", "folder", "manifest")


def load_manifest(
    dataset: str,
    root: str,
    *,
    split: str | None = "test",
    categories: Sequence[str] = (),
    limit: int | None = None,
    object_name: str | None = None,
    class_names: Mapping[str, str] = MappingProxyType({}),
    allow_outside_root: bool = False,
) -> pa.Table:
    """List the images of a dataset as a table of ``MANIFEST_SCHEMA``, in a stable order.

    No image is opened. An image that does not exist stays in the table with null size and becomes an
    error row when it is scored.

    Args:
        dataset: ``visa``, ``mvtec``, ``folder`` or ``manifest``.
        root: local path or ``s3://``, ``gs://`` URI of the dataset's folder, or of the manifest file.
        split: rows of this split, where the dataset has splits; ``None`` or ``"all"`` = every row.
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
    table = collapse_duplicates(select(table, split, categories, redact(root)))
    if limit is not None:
        table = table.slice(0, limit)
    if table["file_size"].null_count < len(table):
        return table
    for name in ("mask_path", "foreground_path") if not allow_outside_root else ():
        # Only for what it refuses: links that leave the root. Remote stores have none.
        local = [path for path in table[name].drop_null().to_pylist() if is_local(path)]
        stat(local, root=folder, allow_outside=False)
    sizes, times = stat(table["image_path"].to_pylist(), root=folder, allow_outside=allow_outside_root)
    return build({**{name: table[name] for name in table.column_names}, "file_size": sizes, "file_mtime": times})


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
