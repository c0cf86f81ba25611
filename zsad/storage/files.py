"""Files of an output folder: atomic writes, listings, and Parquet reads that explain themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from zsad.errors import ZsadError
from zsad.filesystem import join, redact, replace_file, resolve, retry_io

T = TypeVar("T")

Sink = Any
"""What ``pyarrow.parquet.ParquetWriter`` writes to; has ``write(bytes)``."""

_COMPLAINTS = (OSError, ValueError, NotImplementedError)
"""What Arrow raises for bytes that are no Parquet file, and for a connection that breaks."""


class DamagedPart(ZsadError):
    """A part that is missing, cut off, or not of this program (not one that is merely out of reach now)."""


def write_atomically(uri: str, write: Callable[[Sink], object]) -> None:
    """Create or replace the file at ``uri``, whole or not at all.

    On a local file system a hidden temporary name in the same folder, fsync and ``os.replace``; on an
    object store the content is built in memory and put, again where the store is out of reach for the moment.

    Args:
        uri: path or URI of the file.
        write: called once with a sink.

    Raises:
        ZsadError: the file cannot be written (no space, no permission, no connection).
    """
    filesystem, path = resolve(uri)
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(path, write)
            return
        buffer = pa.BufferOutputStream()
        write(buffer)
        content = buffer.getvalue()

        def put() -> None:
            with filesystem.open_output_stream(path) as stream:
                stream.write(content)

        retry_io(put)
    except OSError as error:
        raise ZsadError(f"Cannot write {redact(uri)!r}: {redact(str(error))}") from error


def _write_local(path: str, write: Callable[[Sink], object]) -> None:
    def write_synced(file: BinaryIO) -> None:
        write(file)
        file.flush()
        os.fsync(file.fileno())

    replace_file(path, write_synced)
    _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_files(uri: str) -> list[fs.FileInfo]:
    """Files and folders directly in ``uri``, sorted by name; empty when it does not exist.

    Names that are not UTF-8 are left out: none of ours is such a one, and Arrow cannot open them.

    Raises:
        ZsadError: ``uri`` is a file or cannot be listed.
    """
    filesystem, path = resolve(uri)
    try:
        found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    except OSError as error:
        raise ZsadError(f"Cannot list {redact(uri)!r}: {redact(str(error))}") from error
    return sorted(filter(_has_name, found), key=lambda info: info.base_name)


def _has_name(info: fs.FileInfo) -> bool:
    """Whether Arrow can say its name."""
    try:
        return bool(info.base_name)
    except UnicodeDecodeError:
        return False


def list_parts(output: str, folder: str) -> list[str]:
    """Names of the parts in ``output/folder``, oldest first (names start with the time of their run).

    Names that start with ``.`` or ``_`` are not parts.
    """
    return [
        info.base_name
        for info in list_files(join(output, folder))
        if info.type == fs.FileType.File
        and info.base_name.endswith(".parquet")
        and not info.base_name.startswith((".", "_"))
    ]


def open_part(output: str, folder: str, name: str) -> pq.ParquetFile:
    """An open part; close it, or use it in a ``with``. Only its footer has been read.

    Raises:
        DamagedPart: the part is missing or is not a whole Parquet file.
        ZsadError: it cannot be reached.
    """
    return _look(join(output, folder, name), _parquet)


def read_part(output: str, folder: str, name: str, columns: list[str]) -> pa.Table:
    """Some columns of one part, in the order asked for.

    Raises:
        DamagedPart: the part is missing or damaged, or lacks a column.
        ZsadError: it cannot be reached.
    """
    uri = join(output, folder, name)

    def read(source: pa.NativeFile) -> pa.Table:
        with _parquet(source) as part:
            missing = [column for column in columns if column not in part.schema_arrow.names]
            if missing:
                raise DamagedPart(
                    f"The part {redact(uri)!r} lacks the columns {missing}; this program did not write it. {_REPAIR}"
                )
            return part.read(columns=columns).select(columns).replace_schema_metadata(None)

    return _look(uri, read)


def _look(uri: str, work: Callable[[pa.NativeFile], T]) -> T:
    """``work`` on the open part; where that fails, on a copy of it in memory.

    Arrow's errors do not tell broken bytes from a broken connection. So after any error all bytes are read anew:
    when that fails, too, the part is out of reach; when ``work`` fails on the bytes alone, they are damaged.

    Raises:
        DamagedPart: the part is missing or damaged.
        ZsadError: it cannot be reached.
    """
    filesystem, path = resolve(uri)
    with suppress(*_COMPLAINTS):
        return work(filesystem.open_input_file(path))
    try:
        content = retry_io(lambda: _content(filesystem, path))
    except FileNotFoundError:
        raise DamagedPart(
            f"The part {redact(uri)!r} is missing. If 'zsad compact' is at work there, do this again after it. {_REPAIR}"
        ) from None
    except OSError as error:
        raise ZsadError(
            f"Cannot read {redact(uri)!r}: {redact(str(error)).rstrip('.')}. "
            "It counts as whole; do this again once it can be read."
        ) from error
    try:
        return work(pa.BufferReader(content))
    except _COMPLAINTS as error:
        raise DamagedPart(
            f"The part {redact(uri)!r} is damaged: {redact(str(error)).rstrip('.')}. {_REPAIR}"
        ) from error


def _parquet(source: pa.NativeFile) -> pq.ParquetFile:
    # Coalesced reads: one request for the wanted row group, not one per column.
    return pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)


def _content(filesystem: fs.FileSystem, path: str) -> pa.Buffer:
    with filesystem.open_input_file(path) as file:
        return file.read_buffer()


def delete(output: str, *parts: str) -> None:
    """Remove the file ``output/part/...``; one that is gone already is fine."""
    filesystem, path = resolve(join(output, *parts))
    try:
        filesystem.delete_file(path)
    except FileNotFoundError:
        return


_REPAIR = "Running the same 'zsad score' again sets damaged parts aside and scores their images anew."
