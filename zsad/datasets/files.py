"""Listing folders, and sizes and times of files; local and remote alike."""

from __future__ import annotations

import json
import os
import posixpath
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from stat import S_ISLNK, S_ISREG
from typing import TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from zsad.datasets.paths import uris
from zsad.errors import ImageError, UsageError
from zsad.filesystem import absolute, is_local, read_bytes, redact, resolve
from zsad.images import EXTENSIONS
from zsad.layout import EXPORT_FINGERPRINT, EXPORT_FORMAT, EXPORT_MARK, PREDICTIONS, REPORT_MARK, REPORT_OF, RUN
from zsad.text import count

_T = TypeVar("_T")
_Rows = NDArray[np.int64]

_THREADS = 16
_CHUNK = 4096
_LIST_FROM = 100
_MARKS = {REPORT_MARK: frozenset({REPORT_OF}), EXPORT_MARK: frozenset({EXPORT_FORMAT, EXPORT_FINGERPRINT})}
"""The marks of a report and of an export, with what stands in them."""
_MOST_BYTES = 1 << 16
_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class File:
    """A file below a root: relative POSIX ``path``, ``size`` in bytes, ``mtime`` in ns (None unknown)."""

    path: str
    size: int | None
    mtime: int | None


def natural_key(path: str) -> tuple[str, str]:
    """Sort key that orders numbers by value, folder by folder: ``2.png`` before ``10.png``."""
    return _DIGITS.sub(_sortable_number, path).replace("/", "\0"), path


def is_image(path: str) -> bool:
    """Whether the name ends like an image that ``zsad.images`` decodes."""
    return ending(path) in EXTENSIONS


def ending(path: str) -> str:
    """The end of a file's name from the last dot, in lower case: ``.jpg``; empty where there is none."""
    return posixpath.splitext(path)[1].lower()


def list_files(root: str, *, allow_outside_root: bool = False) -> list[File]:
    """All visible files below ``root``, naturally sorted.

    Names that start with ``.`` are hidden, and folders below the root that hold a run, a report or an export of ours are
    left out whole, so that their pictures are not taken for input. Locally, links are followed only where they stay
    inside the root (or with ``allow_outside_root``); the others are left out with a warning.

    Raises:
        UsageError: the root does not exist, is not a folder or cannot be read.
    """
    check_folder(root)
    if is_local(root):
        files = _walk(absolute(root), allow_outside_root)
    else:
        filesystem, path = resolve(root)
        try:
            found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        except OSError as error:
            raise _unreadable(root, error) from None
        start = len(path.rstrip("/")) + 1
        files = [
            File(info.path[start:], info.size, info.mtime_ns)
            for info in found
            if info.type == fs.FileType.File and not any(part.startswith(".") for part in info.path[start:].split("/"))
        ]
    return sorted(_without_ours(root, files), key=lambda file: natural_key(file.path))


def check_folder(root: str) -> None:
    """Raise UsageError unless ``root`` is an existing folder (or a non-empty prefix of a bucket)."""
    try:
        filesystem, path = resolve(root)
        kind = filesystem.get_file_info(path).type
    except OSError as error:
        raise _unreadable(root, error) from None
    if kind == fs.FileType.NotFound:
        raise UsageError(
            f"No folder at {redact(root)!r}. Expected the dataset's root folder; check --root for a typing mistake."
        )
    if kind != fs.FileType.Directory:
        raise UsageError(f"{redact(root)!r} is a file. Expected the dataset's root folder as --root.")


def stat(paths: Sequence[str], *, root: str, allow_outside_root: bool) -> tuple[pa.Array, pa.Array]:
    """(size in bytes, modification time in ns) per absolute path or URI, as int64; null where no file is.

    Local files are looked up in threads. Of a remote folder that holds a hundred of the paths or more,
    the listing is read once instead.

    Raises:
        UsageError: a local link leaves the root and ``allow_outside_root`` is false; lists the first five.
    """
    sizes = np.full(len(paths), -1, np.int64)
    times = np.full(len(paths), -1, np.int64)
    remote = np.fromiter((not is_local(path) for path in paths), bool, len(paths))
    escaping = _stat_local(paths, np.flatnonzero(~remote), sizes, times, None if allow_outside_root else root)
    _stat_remote(paths, np.flatnonzero(remote), sizes, times)
    if escaping:
        raise UsageError(
            f"{count(len(escaping), 'path is a link that leaves', 'paths are links that leave')} the root "
            f"{absolute(root)!r}. Expected files below it; copy them there, or allow this with --allow-outside-root. "
            "First five:\n" + "\n".join(f"  {path!r}" for path in sorted(escaping)[:5])
        )
    return pa.array(sizes, mask=sizes < 0), pa.array(times, mask=times < 0)


def _stat_local(paths: Sequence[str], rows: _Rows, sizes: _Rows, times: _Rows, root: str | None) -> list[str]:
    real_root = os.path.realpath(absolute(root)) if root is not None and is_local(root) else None
    folders: dict[str, bool] = {}

    def stays(path: str) -> bool:
        return real_root is None or _is_below(os.path.realpath(path), real_root)

    def look(chunk: _Rows) -> list[str]:
        escaping = []
        for row in chunk:
            path = paths[row]
            folder = os.path.dirname(path)
            try:
                if folder not in folders:
                    folders[folder] = stays(folder)
                info = os.lstat(path)
                linked = S_ISLNK(info.st_mode)
                if not folders[folder] or (linked and not stays(path)):
                    escaping.append(path)
                    continue
                info = os.stat(path) if linked else info
            except (OSError, ValueError):
                continue
            if S_ISREG(info.st_mode):
                sizes[row], times[row] = info.st_size, info.st_mtime_ns
        return escaping

    return [path for found in _in_threads(look, rows) for path in found]


def _stat_remote(paths: Sequence[str], rows: _Rows, sizes: _Rows, times: _Rows) -> None:
    if not len(rows):
        return
    by_scheme: dict[str, list[int]] = {}
    for row in rows:
        by_scheme.setdefault(paths[row].partition("://")[0], []).append(int(row))
    for members in by_scheme.values():
        filesystem, _ = resolve(paths[members[0]])
        inner = {row: unquote(paths[row].partition("?")[0].partition("://")[2]) for row in members}
        folders: dict[str, list[int]] = {}
        for row, path in inner.items():
            folders.setdefault(posixpath.dirname(path), []).append(row)
        single = []
        for folder, inside in folders.items():
            if len(inside) < _LIST_FROM:
                single.extend(inside)
                continue
            found = {info.path: info for info in _infos(filesystem, fs.FileSelector(folder, allow_not_found=True))}
            _fill({row: found[inner[row]] for row in inside if inner[row] in found}, sizes, times)

        def look(chunk: _Rows, filesystem: fs.FileSystem = filesystem, inner: dict[int, str] = inner) -> None:
            keys = [int(row) for row in chunk]
            infos = _infos(filesystem, [inner[row] for row in keys])
            _fill(dict(zip(keys, infos, strict=True)), sizes, times)

        _in_threads(look, np.array(single, np.int64), chunk=64)


def _infos(filesystem: fs.FileSystem, what: fs.FileSelector | list[str]) -> list[fs.FileInfo]:
    try:
        return filesystem.get_file_info(what)
    except OSError as error:
        raise UsageError(
            f"Cannot look up the images: {redact(str(error))[:300]}. Check bucket and credentials."
        ) from None


def _fill(infos: dict[int, fs.FileInfo], sizes: _Rows, times: _Rows) -> None:
    for row, info in infos.items():
        if info.type == fs.FileType.File:
            sizes[row] = info.size if info.size is not None else -1
            times[row] = info.mtime_ns if info.mtime_ns is not None else -1


def _in_threads(look: Callable[[_Rows], _T], rows: _Rows, chunk: int = _CHUNK) -> list[_T]:
    chunks = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    if len(chunks) <= 1:
        return [look(rows)] if chunks else []
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(look, chunks))


def _without_ours(root: str, files: list[File]) -> list[File]:
    """The files that lie in no folder that we wrote: a run, a report or an export; the root itself is not asked."""
    marked = [posixpath.split(file.path) for file in files if "/" in file.path]
    marked = [(folder, name) for folder, name in marked if name == RUN or name in _MARKS]
    if not marked:
        return files
    folders = {posixpath.dirname(file.path) for file in files}
    ours = tuple(
        f"{folder}/"
        for folder, name in marked
        if (f"{folder}/{PREDICTIONS}" in folders if name == RUN else _holds(root, f"{folder}/{name}", _MARKS[name]))
    )
    return [file for file in files if not file.path.startswith(ours)]


def _holds(root: str, path: str, keys: frozenset[str]) -> bool:
    """Whether the JSON file below ``root`` is an object with these keys."""
    try:
        found = json.loads(read_bytes(uris(root, pa.array([path]))[0].as_py(), _MOST_BYTES))
    except (ImageError, ValueError):
        return False
    return isinstance(found, dict) and keys <= found.keys()


def _walk(root: str, allow_outside_root: bool) -> list[File]:
    real_root = os.path.realpath(root)
    files: list[File] = []
    skipped: list[str] = []
    pending: list[tuple[str, tuple[str, ...]]] = [("", (real_root,))]
    while pending:
        folder, chain = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError as error:
            raise _unreadable(os.path.join(root, folder), error) from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            linked = entry.is_symlink()
            real = os.path.realpath(entry.path) if linked else os.path.join(chain[-1], entry.name)
            if linked and not allow_outside_root and not _is_below(real, real_root):
                skipped.append(path)
            elif os.path.isdir(entry.path) if linked else entry.is_dir():
                if real not in chain:
                    pending.append((path, (*chain, real)))
            elif linked and not os.path.exists(entry.path):
                files.append(File(_printable(path), None, None))
            elif entry.is_file():
                files.append(_file(entry, path))
    if skipped:
        warnings.warn(
            f"Left out {count(len(skipped), 'link that leaves', 'links that leave')} {root}, e.g. "
            f"{sorted(skipped)[0]!r}. They are followed with --allow-outside-root.",
            stacklevel=4,
        )
    return files


def _file(entry: os.DirEntry[str], path: str) -> File:
    try:
        info = entry.stat()
    except OSError:
        # Gone since the folder was read: an error row says so, unless it comes back.
        return File(_printable(path), None, None)
    return File(_printable(path), info.st_size, info.st_mtime_ns)


def _sortable_number(match: re.Match[str]) -> str:
    digits = match.group().lstrip("0")
    return f"{len(digits):04d}{digits}"


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _printable(path: str) -> str:
    """A name that is not UTF-8 cannot stand in a table: it is escaped, and becomes an error row later."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _unreadable(where: str, error: OSError) -> UsageError:
    return UsageError(
        f"Cannot read {redact(where)!r}: {redact(str(error))[:300]}. Check the path, the permissions and, "
        "for a bucket, the credentials and AWS_ENDPOINT_URL."
    )
