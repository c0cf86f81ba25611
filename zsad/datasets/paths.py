"""Paths as users write them -> root-relative identities and absolute locations, confined to a root."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from zsad.errors import UsageError
from zsad.filesystem import absolute, is_local, join, redact

_MESSY = r"(^|/)\.{1,2}(/|$)|//|/$"
_NEEDS_QUOTING = r"[^A-Za-z0-9_.~/-]"
_ABSOLUTE = r"^(/|[a-zA-Z][a-zA-Z0-9+.-]+://)"
_OUTSIDE = rf"{_ABSOLUTE}|^\.\.(/|$)|^\.$"


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


def confine(paths: pa.ChunkedArray, root: str, *, column: str, allow_outside: bool) -> tuple[pa.Array, pa.Array]:
    """Paths as a manifest gives them -> (root-relative POSIX paths, absolute paths or URIs).

    Relative paths are taken from ``root``; ``.`` and ``..`` are resolved. Nulls stay null.

    Raises:
        UsageError: a path leaves the root and ``allow_outside`` is false; lists the first five.
    """
    base = absolute(root).partition("?")[0] if not is_local(root) else absolute(root)
    prefix = base.rstrip("/") + "/"
    inside = pc.starts_with(paths, prefix)
    cleaned = pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(prefix)), paths)
    if not is_local(root):
        encoded = pc.and_(inside, pc.match_substring_regex(cleaned, r"[%?]"))
        cleaned = _replace_where(cleaned, encoded, lambda path: unquote(path.partition("?")[0]))
    is_absolute = pc.and_(pc.match_substring_regex(cleaned, _ABSOLUTE), pc.invert(inside))
    messy = pc.and_(pc.match_substring_regex(cleaned, _MESSY), pc.invert(is_absolute))
    cleaned = _replace_where(cleaned, messy, posixpath.normpath)
    # An absolute local path may reach the root by another spelling ("/data/../data/set/x.png").
    spelled = pc.and_(pc.match_substring_regex(cleaned, _MESSY), pc.starts_with(cleaned, "/"))
    cleaned = _replace_where(cleaned, spelled, lambda path: posixpath.normpath(path).removeprefix(prefix))
    outside = pc.match_substring_regex(cleaned, _OUTSIDE)
    leaving = cleaned.filter(outside)
    if len(leaving) and not allow_outside:
        raise UsageError(
            f"{len(leaving):,} paths in column {column!r} leave the root {redact(base)!r}. Expected paths "
            "below it; move the files, or allow this with allow_outside_root. First five:\n"
            + "\n".join(f"  {redact(path)!r}" for path in leaving.slice(0, 5).to_pylist())
        )
    located = uris(root, cleaned)
    if len(leaving):
        located = _replace_where(pc.if_else(outside, cleaned, located), outside, lambda path: _outside(path, root))
    return cleaned, located


def _replace_where(values: Any, where: Any, function: Callable[[str], str]) -> Any:
    where = pc.fill_null(where, False)
    if not pc.any(where, min_count=0).as_py():
        return values
    replaced = pa.array([function(value) for value in values.filter(where).to_pylist()], values.type)
    mask = where.combine_chunks() if isinstance(where, pa.ChunkedArray) else where
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.replace_with_mask(flat, mask, replaced)


def _outside(path: str, root: str) -> str:
    if re.match(_ABSOLUTE, path):
        return path
    if is_local(root):
        return posixpath.normpath(posixpath.join(absolute(root), path))
    base, mark, query = root.partition("?")
    scheme, _, inner = base.partition("://")
    outer = posixpath.normpath(posixpath.join(unquote(inner), path))
    return f"{scheme}://{quote(outer, safe='/~')}{mark}{query}"
