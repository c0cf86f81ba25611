"""The folder of an export: what may be written to, and the mark that makes it ours."""

from __future__ import annotations

import json
import os
from typing import Any

from pyarrow import fs

from zsad.errors import UsageError
from zsad.filesystem import is_local, join, redact, resolve
from zsad.layout import EXPORT_FINGERPRINT, EXPORT_FORMAT, EXPORT_MARK
from zsad.storage import write_atomically
from zsad.storage.files import list_files


def claim(output: str, target: str, format_name: str, fingerprint: str | None) -> None:
    """Make ``target`` the folder of this export, or refuse.

    Raises:
        UsageError: it lies among the run's own tables, is a file, or holds anything but an earlier export of
            this run in this format.
    """
    _check_outside_tables(output, target)
    filesystem, path = resolve(target)
    shown = redact(target)
    try:
        kind = filesystem.get_file_info(path).type
    except OSError as error:
        raise UsageError(f"Cannot reach the target {shown!r}: {redact(str(error))}") from None
    if kind == fs.FileType.File:
        raise UsageError(f"The target {shown!r} is a file. Expected a folder; give another --output.")
    wanted = {EXPORT_FORMAT: format_name, EXPORT_FINGERPRINT: fingerprint}
    present = [info.base_name for info in list_files(target) if not info.base_name.startswith(".")]
    if present:
        mark = _read(target) if EXPORT_MARK in present else {}
        if {name: mark.get(name) for name in wanted} != wanted:
            what = (
                f"a {mark[EXPORT_FORMAT]} export of another run or format"
                if EXPORT_FORMAT in mark
                else "no earlier export"
            )
            raise UsageError(
                f"The target {shown!r} is not empty and holds {what} (found {', '.join(present[:3])}"
                f"{', ...' if len(present) > 3 else ''}). Give a new or empty --output, or remove that folder."
            )
    _write(target, wanted | {"complete": False})


def complete(target: str) -> None:
    """Say in the mark that everything was written."""
    _write(target, _read(target) | {"complete": True})


def _check_outside_tables(output: str, target: str) -> None:
    run, folder = (
        os.path.realpath(uri) if is_local(uri) else uri.partition("?")[0].rstrip("/") for uri in (output, target)
    )
    inside = folder == run or folder.startswith(run + "/")
    if inside and not folder.startswith(run + "/exports/"):
        raise UsageError(
            f"The target {redact(target)!r} lies in the run itself, among its tables. Expected a folder outside of "
            f"{redact(output)!r}, or leave --output out for one below {redact(join(output, 'exports'))!r}."
        )


def _read(target: str) -> dict[str, Any]:
    filesystem, path = resolve(join(target, EXPORT_MARK))
    try:
        with filesystem.open_input_stream(path) as stream:
            mark = json.loads(stream.read())
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def _write(target: str, mark: dict[str, Any]) -> None:
    write_atomically(join(target, EXPORT_MARK), lambda sink: sink.write((json.dumps(mark, indent=2) + "\n").encode()))
