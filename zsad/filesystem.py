"""Local paths and ``s3://``, ``gs://`` URIs behind one set of functions (pyarrow.fs)."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import unquote

import numpy as np
from pyarrow import fs

from zsad.errors import ImageError, UsageError

T = TypeVar("T")

Uri = str | os.PathLike[str]
"""A path or URI as callers of the Python functions may give it."""

BACK_OFF = (0.5, 2.0, 8.0, 30.0)
"""Seconds to wait before each retry after a transient I/O error; ``sleep_with_jitter`` varies each by up to half."""
_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://")
# A secret may hold slashes, so everything up to an @ counts once there is a colon before it.
_CREDENTIALS = re.compile(r"(?<=://)(?!anonymous@)(?:[^/\s]+|[^/@\s]*:[^@\s]*)@")
_LASTING = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EISDIR})
"""Error numbers of file reads for which a retry cannot help."""
_LASTING_TEXT = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_|INVALID_|SIGNATURE_DOES_NOT_MATCH)|HTTP status (301|4(?!08|29))|Bucket .* not found"
)
"""Error messages of object stores for which a retry cannot help."""
_SECRET_PARAMETER = re.compile(
    r"(?i)\b([\w-]{0,32}(?:password|secret|token|credential|signature|access[_-]?key(?:[_-]?id)?"
    r"|(?:secret|api|account)[_-]?key)|sig)=[^&\s'\"]+"
)


def as_uri(uri: Uri) -> str:
    """``uri`` as the string that everything else here works with.

    Raises:
        UsageError: it is empty. Python would take that for the current folder; it is mostly an unset variable of a shell.
    """
    text = os.fspath(uri)
    if text in ("", "file://"):
        raise UsageError(
            "Given an empty path. Expected a path or URI, or . for the current folder; is a variable of the shell unset?"
        )
    return text


def is_local(uri: str) -> bool:
    """Whether ``uri`` is a path of this machine (no scheme, or ``file://``)."""
    match = _SCHEME.match(uri)
    return match is None or match.group(1) == "file"


def resolve(uri: Uri) -> tuple[fs.FileSystem, str]:
    """The file system of ``uri`` and the path inside it.

    Credentials come from the environment as usual for the provider (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...).

    Raises:
        UsageError: the path is empty, the scheme is unknown, the URI is malformed, or it holds credentials,
            which would end up in every row.
    """
    uri = as_uri(uri)
    try:
        return _resolve(uri)
    except ValueError as error:
        raise UsageError(
            f"Cannot open {redact(uri)!r}: {redact(str(error))}. Expected a local path or an s3:// or gs:// URI."
        ) from None
    except OSError as error:
        raise UsageError(f"Cannot open {redact(uri)!r}: {redact(str(error)).rstrip('.')}.") from None


def _resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """``resolve``, with the errors of a remote file system as they are."""
    if is_local(uri):
        path = uri[len("file://") :] if uri.startswith("file://") else uri
        try:
            return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
        except RuntimeError as error:
            raise UsageError(f"Cannot resolve {path!r}: {error} Write ./~... for a file of that name.") from None
    if _CREDENTIALS.search(uri) or _SECRET_PARAMETER.search(uri.partition("?")[2]):
        raise UsageError(
            f"The URI {redact(uri)!r} holds credentials, which would be stored with every row. Expected them in the "
            "environment, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in the provider's own files."
        )
    # The path comes from the whole URI, the client, with its connections, is shared by a bucket.
    base, mark, query = uri.partition("?")
    scheme, _, rest = base.partition("://")
    bucket, _, key = rest.partition("/")
    filesystem, root = _client(f"{scheme}://{bucket}{mark}{query}")
    return filesystem, f"{root}/{unquote(key)}".rstrip("/") if key else root


@lru_cache(maxsize=64)
def _client(uri: str) -> tuple[fs.FileSystem, str]:
    # Opening a bucket may ask the store where it is.
    filesystem, root = retry_io(lambda: fs.FileSystem.from_uri(uri), BACK_OFF[:2])
    return filesystem, root


def retry_io(work: Callable[[], T], waits: Sequence[float] = BACK_OFF) -> T:
    """Result of ``work()``; after a transient I/O error it is called again, after each of ``waits`` (seconds) in turn."""
    for wait in waits:
        try:
            return work()
        except OSError as error:
            if not is_transient_io(error):
                raise
        sleep_with_jitter(wait)
    return work()


def sleep_with_jitter(seconds: float) -> None:
    """Wait for ``seconds``, at random up to half more or less, so that processes that failed together retry apart."""
    time.sleep(seconds * np.random.default_rng().uniform(0.5, 1.5))


def is_transient_io(error: OSError) -> bool:
    """Whether a retry may help: true for a store that is out of reach now, false for a wrong name or no permission."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError) or error.errno in _LASTING:
        return False
    return _LASTING_TEXT.search(str(error)) is None


def join(uri: str, *parts: str) -> str:
    """``uri`` extended by ``parts`` with single slashes; a query string stays at the end.

    >>> join("s3://bucket/run?region=x", "predictions")
    's3://bucket/run/predictions?region=x'
    """
    base, mark, query = uri.partition("?") if not is_local(uri) else (uri, "", "")
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)]) + mark + query


def absolute(uri: Uri) -> str:
    """``uri`` itself, or the absolute path when it is local (what is stored in a manifest). Raises as ``resolve``."""
    uri = as_uri(uri)
    return resolve(uri)[1] if is_local(uri) else uri


def exists(uri: str) -> bool:
    """Whether a file or folder stands at ``uri``."""
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(uri: str, max_bytes: int | None = None) -> bytes:
    """The content of one file.

    Raises:
        ImageError: kind ``missing``, ``not_a_file``, ``unreadable`` or ``file_too_large`` (over ``max_bytes``).
    """
    try:
        filesystem, path = _resolve(as_uri(uri))
        if isinstance(filesystem, fs.LocalFileSystem):
            # Opening a named pipe would wait for a writer for ever.
            if os.path.exists(path) and not os.path.isfile(path):
                raise ImageError("not_a_file", "the path is a folder or a device")
            with open(path, "rb") as file:
                _check_size(os.fstat(file.fileno()).st_size, max_bytes)
                return file.read()
        with filesystem.open_input_file(path) as stream:
            _check_size(stream.size(), max_bytes)
            return stream.read()
    except UsageError as error:
        # Of this file only, not of the run.
        raise ImageError("unreadable", str(error)[:300]) from None
    except (FileNotFoundError, NotADirectoryError):
        hint = ""
        if re.search(r"\\x[0-9a-f]{2}", uri):
            hint = " (names that are not UTF-8 cannot be read: rename the file)"
        elif "\\" in uri:
            hint = " (it has \\ where / is expected)"
        raise ImageError("missing", f"no file at this path{hint}") from None
    except PermissionError:
        raise ImageError("unreadable", "no permission to read this file") from None
    except (OSError, ValueError) as error:
        transient = isinstance(error, OSError) and is_transient_io(error)
        message = getattr(error, "strerror", None) or str(error)
        raise ImageError("unreadable", redact(message)[:300], transient=transient) from None


def replace_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Create or replace the local file at ``path``, whole or not at all, and the folders above it.

    Args:
        path: of the file; not a URI.
        write: called once with an open binary file; it may flush and sync that itself.

    Raises:
        OSError: it cannot be written. Whatever ``write`` raises leaves no file behind, either.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    # Two processes may write the same file at once, so the temporary name is not shared.
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _check_size(size: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size > max_bytes:
        raise ImageError("file_too_large", f"{size:,} bytes; the cap is {max_bytes:,} (images.max_file_bytes)")


def redact(text: str) -> str:
    """``text`` without credentials: user info in URIs and secret query parameters become ``***``."""
    return _SECRET_PARAMETER.sub(r"\1=***", _CREDENTIALS.sub("***@", text))
