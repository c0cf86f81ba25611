"""Paths as users write them -> root-relative identities and absolute locations, confined to a root."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from zsad.errors import UsageError
from zsad.filesystem import absolute, is_local, join, redact
from zsad.text import count

_MESSY = r"(^|/)\.{1,2}(/|$)|//|/$"
_NEEDS_QUOTING = r"[^A-Za-z0-9_.~/-]"
_ABSOLUTE = r"^(/|[a-zA-Z][a-zA-Z0-9+.-]+://)"
_OUTSIDE = rf"{_ABSOLUTE}|^\.\.(/|$)|^\.$"
_SLICE = 1 << 18
"""Paths looked at together, which bounds the memory of what lies between the two columns."""


def uris(root: str, relative: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Absolute paths (local root) or URIs (remote root) of root-relative POSIX paths, element by element.

    Remote names are percent-encoded, since a URI cannot hold a space, a ``?`` or a ``#`` otherwise.
    """
    before, _, after = join(absolute(root), "\0").partition("\0")
    if not is_local(root):
        relative = _replace_where(
            relative, pc.match_substring_regex(relative, _NEEDS_QUOTING), lambda path: quote(path, safe="/~")
        )
    return pc.binary_join_element_wise(before, relative, after, "")


def confine(
    paths: pa.ChunkedArray, root: str, *, column: str, allow_outside_root: bool
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Paths as a manifest gives them -> (root-relative POSIX paths, absolute paths or URIs).

    Relative paths are taken from ``root``; ``.`` and ``..`` are resolved. Nulls stay null.

    Raises:
        UsageError: a path leaves the root and ``allow_outside_root`` is false; lists the first five.
    """
    base = absolute(root).partition("?")[0] if not is_local(root) else absolute(root)
    prefix = base.rstrip("/") + "/"
    relative, located = [], []
    leaving = 0
    examples: list[str] = []
    for part in (chunk.slice(start, _SLICE) for chunk in paths.chunks for start in range(0, len(chunk), _SLICE)):
        cleaned = _clean(part, root, prefix)
        outside = cleaned.filter(pc.match_substring_regex(cleaned, _OUTSIDE))
        leaving += len(outside)
        examples += outside.slice(0, 5).to_pylist()
        relative.append(cleaned)
        if allow_outside_root or not leaving:
            located.append(_locate(cleaned, root))
    if leaving and not allow_outside_root:
        raise UsageError(
            f"{count(leaving, f'path in column {column!r} leaves', f'paths in column {column!r} leave')} the root "
            f"{redact(base)!r}. Expected paths below it; move the files, or allow this with --allow-outside-root. "
            "First five:\n" + "\n".join(f"  {redact(path)!r}" for path in examples[:5])
        )
    return pa.chunked_array(relative, paths.type), pa.chunked_array(located, paths.type)


def _clean(paths: pa.Array, root: str, prefix: str) -> pa.Array:
    """Paths below the root (``prefix``, with its slash) as relative ones, without ``.`` and ``..``; others stay."""
    inside = pc.starts_with(paths, prefix)
    if pc.any(inside).as_py():
        cleaned = pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(prefix)), paths)
    else:
        # Not copied: ten million paths are half a gigabyte.
        cleaned = paths
    if not is_local(root):
        encoded = pc.and_(inside, pc.match_substring_regex(cleaned, r"[%?]"))
        cleaned = _replace_where(cleaned, encoded, lambda path: unquote(path.partition("?")[0]))
    is_absolute = pc.and_(pc.match_substring_regex(cleaned, _ABSOLUTE), pc.invert(inside))
    messy = pc.and_(pc.match_substring_regex(cleaned, _MESSY), pc.invert(is_absolute))
    cleaned = _replace_where(cleaned, messy, posixpath.normpath)
    # An absolute local path may reach the root by another spelling ("/data/../data/set/x.png").
    spelled = pc.and_(pc.match_substring_regex(cleaned, _MESSY), pc.starts_with(cleaned, "/"))
    return _replace_where(cleaned, spelled, lambda path: posixpath.normpath(path).removeprefix(prefix))


def _locate(cleaned: pa.Array, root: str) -> pa.Array:
    """Absolute paths or URIs of what ``_clean`` returns, which stays as it is where all of it is absolute."""
    is_absolute = pc.match_substring_regex(cleaned, _ABSOLUTE)
    if pc.all(is_absolute).as_py():
        return cleaned
    outside = pc.match_substring_regex(cleaned, _OUTSIDE)
    located = pc.if_else(outside, cleaned, uris(root, pc.if_else(is_absolute, None, cleaned)))
    climbing = pc.and_(outside, pc.invert(is_absolute))
    return _replace_where(located, climbing, lambda path: _above(path, root))


def _replace_where(values: Any, where: Any, function: Callable[[str], str]) -> Any:
    where = pc.fill_null(where, False)
    if not pc.any(where, min_count=0).as_py():
        return values
    replaced = pa.array([function(value) for value in values.filter(where).to_pylist()], values.type)
    mask = where.combine_chunks() if isinstance(where, pa.ChunkedArray) else where
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.replace_with_mask(flat, mask, replaced)


def _above(path: str, root: str) -> str:
    """Where a relative path that leaves the root leads to."""
    if is_local(root):
        return posixpath.normpath(posixpath.join(absolute(root), path))
    base, mark, query = root.partition("?")
    scheme, _, inner = base.partition("://")
    outer = posixpath.normpath(posixpath.join(unquote(inner), path))
    return f"{scheme}://{quote(outer, safe='/~')}{mark}{query}"
