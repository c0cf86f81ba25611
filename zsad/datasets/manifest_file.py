"""A manifest kept by the user: CSV or Parquet with at least ``image_path``."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from zsad.datasets.manifest import build
from zsad.datasets.nouns import noun_for
from zsad.datasets.paths import confine
from zsad.datasets.tables import read_labels, read_table
from zsad.errors import UsageError
from zsad.filesystem import absolute, is_local, join, redact, resolve
from zsad.text import count

_NAMES = ("manifest.csv", "manifest.parquet")
_NUMBERS = {"file_size": "bytes", "file_mtime": "nanoseconds since the epoch"}
_WHOLE_NUMBER = r"^([0-9]{1,18}|[1-8][0-9]{18})(\.0)?$"
"""At most 19 digits, so that it fits into 64 bits; with the .0 that pandas writes where a column has gaps."""
_OPTIONAL = ("image_id", "category", "class_name", "split", "gt_label", "mask_path", "foreground_path", *_NUMBERS)


def read_manifest_file(
    uri: str, folder: str, *, object_name: str | None, class_names: Mapping[str, str], allow_outside_root: bool = False
) -> pa.Table:
    """A manifest from a CSV or Parquet file.

    Its columns are those of ``MANIFEST_SCHEMA``, all but ``image_path`` optional.

    Args:
        uri: the file.
        folder: relative paths are taken from here, and no path may leave it unless ``allow_outside_root``.
        object_name: noun of the rows that have neither ``class_name`` nor ``category``.
        class_names: noun per category, over the default table.

    Raises:
        UsageError: the file is unreadable, lacks ``image_path``, has rows without a path or without a noun, none that
            would take ``object_name``, unknown labels, sizes or times that are no whole numbers, or paths outside the
            folder.
    """
    table = read_table(uri, ["image_path"], _OPTIONAL)
    columns = {name: table[name] for name in table.column_names}
    length = len(table)
    # Each text goes as soon as what is made of it is there.
    del table
    for name in _NUMBERS:
        if name in columns:
            columns[name] = _numbers(columns[name], uri, name)
    _require(columns["image_path"], uri, "image_path", "Give every row the path of its image.")
    given = columns.get("image_id")
    columns["image_id"], columns["image_path"] = confine(
        columns["image_path"], folder, column="image_path", allow_outside_root=allow_outside_root
    )
    if given is not None:
        columns["image_id"] = pc.coalesce(given, columns["image_id"]) if given.null_count else given
    for name in ("mask_path", "foreground_path"):
        if name in columns:
            columns[name] = confine(columns[name], folder, column=name, allow_outside_root=allow_outside_root)[1]
    if "gt_label" in columns:
        columns["gt_label"] = read_labels(columns["gt_label"], uri)
    columns["class_name"] = _nouns(columns, length, object_name, class_names)
    _require(
        columns["class_name"],
        uri,
        "class_name",
        'Add a column class_name or category, or name what all images show, e.g. --object "capsule".',
    )
    return build(columns)


def _nouns(
    columns: Mapping[str, pa.ChunkedArray],
    length: int,
    object_name: str | None,
    class_names: Mapping[str, str],
) -> pa.ChunkedArray:
    nouns = columns.get("class_name", pa.nulls(length, pa.string()))
    if "category" in columns:
        categories = pc.unique(columns["category"].drop_null())
        named = pa.array([noun_for(category, class_names) for category in categories.to_pylist()], pa.string())
        nouns = pc.coalesce(nouns, named.take(pc.index_in(columns["category"], categories)))
    noun = object_name.strip() if object_name else ""
    if noun and length and not nouns.null_count:
        raise UsageError(
            f"An object name ({noun!r}) was given, but every row of the manifest has a class_name or a category, which "
            "go before it. Leave --object out; to change the noun of a category use "
            "--set prompts.class_names.CATEGORY=NOUN, else change or drop the column."
        )
    return pc.coalesce(nouns, pa.scalar(noun or None, pa.string()))


def _numbers(texts: pa.ChunkedArray, uri: str, column: str) -> pa.ChunkedArray:
    """Whole numbers of at least 0 as int64, null where nothing is given."""
    whole = pc.match_substring_regex(texts, _WHOLE_NUMBER)
    strange = texts.filter(pc.invert(whole))
    if len(strange):
        given = ", ".join(repr(value) for value in strange.slice(0, 5).to_pylist())
        raise UsageError(
            f"{count(len(strange), 'value')} in column {column!r} of {redact(uri)!r} "
            f"{'is' if len(strange) == 1 else 'are'} not {_NUMBERS[column]}: {given}"
            f"{', ...' if len(strange) > 5 else ''}. Expected whole numbers from 0, or nothing where it is not known; "
            "correct them, or leave the column out to have the files looked up."
        )
    return pc.replace_substring(texts, ".0", "").cast(pa.int64())


def _require(values: pa.ChunkedArray, uri: str, column: str, fix: str) -> None:
    if values.null_count:
        rows = ", ".join(str(row + 1) for row in pc.indices_nonzero(pc.is_null(values)).slice(0, 5).to_pylist())
        shown = f"first are rows {rows}" if values.null_count > 5 else f"row{'s' * (values.null_count > 1)} {rows}"
        raise UsageError(f"{count(values.null_count, 'row')} of {redact(uri)!r} without {column} ({shown}). {fix}")


def find_manifest_file(root: str) -> tuple[str, str]:
    """(manifest file, its folder) as paths or URIs, from the file itself or a folder that holds it.

    Raises:
        UsageError: neither a file nor a folder with ``manifest.csv`` or ``manifest.parquet``.
    """
    filesystem, path = resolve(root)
    try:
        kind = filesystem.get_file_info(path).type
        if kind == fs.FileType.File:
            return root, _parent(root)
        for name in _NAMES if kind == fs.FileType.Directory else ():
            candidate = join(absolute(root), name)
            if filesystem.get_file_info(posixpath.join(path, name)).type == fs.FileType.File:
                return candidate, absolute(root)
    except OSError as error:
        raise UsageError(
            f"Cannot read {redact(root)!r}: {redact(str(error))[:300]}. Check path and credentials."
        ) from None
    raise UsageError(
        f"No manifest at {redact(root)!r}. Expected a CSV or Parquet file with a column image_path as "
        f"--root, or a folder that holds {' or '.join(_NAMES)}."
    )


def _parent(uri: str) -> str:
    if is_local(uri):
        return posixpath.dirname(absolute(uri))
    base, mark, query = uri.partition("?")
    return posixpath.dirname(base) + mark + query
