"""The folder that a report is written into: a local path, or a URI of an object store."""

from __future__ import annotations

from pyarrow import fs

from zsad.errors import UsageError, ZsadError
from zsad.filesystem import join, redact, replace_file, resolve


class ReportFolder:
    """Files under one folder, named by relative POSIX paths. Thread-safe.

    Unlike results, what a report holds can be made again, so a file is replaced whole but not synced to
    the disk one by one: thousands of small pictures would wait for it.

    Raises:
        UsageError: there is a file in its place, or it cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.filesystem, self.path = resolve(uri)
        try:
            kind = self.filesystem.get_file_info(self.path).type
        except OSError as error:
            raise UsageError(f"Cannot reach the report {redact(uri)!r}: {redact(str(error))}") from None
        if kind == fs.FileType.File:
            raise UsageError(f"The report {redact(uri)!r} is a file. Expected a folder; give another --to.")

    def put(self, name: str, data: bytes) -> None:
        """Create or replace one file. Raises ZsadError when it cannot be written."""
        path = f"{self.path}/{name}"
        try:
            if not isinstance(self.filesystem, fs.LocalFileSystem):
                with self.filesystem.open_output_stream(path) as stream:
                    stream.write(data)
                return
            replace_file(path, lambda file: file.write(data))
        except OSError as error:
            raise ZsadError(f"Cannot write {redact(join(self.uri, name))!r}: {redact(str(error))}") from error

    def get(self, name: str) -> bytes | None:
        """The content of one file, or None where there is none."""
        try:
            with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ZsadError(f"Cannot read {redact(join(self.uri, name))!r}: {redact(str(error))}") from error

    def names(self, folder: str) -> set[str]:
        """Names of all files below ``folder``, relative to this one."""
        selector = fs.FileSelector(f"{self.path}/{folder}", recursive=True, allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except OSError as error:
            raise ZsadError(f"Cannot list {redact(join(self.uri, folder))!r}: {redact(str(error))}") from error
        return {info.path[len(self.path) :].lstrip("/") for info in found if info.type == fs.FileType.File}

    def delete(self, name: str) -> None:
        """Remove one file; one that is gone already is fine."""
        try:
            self.filesystem.delete_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return
