"""One writer at a time: an output is locked while a run writes to it.

On a file system the operating system holds the lock, so it ends with its process however that dies. An object
store has no locks: there one object names the run that holds the output, and that run renews it.

In both, the last to write the holder's file has the output, whoever held it before. Every process looks at the file
before it commits, and a run on an object store before it renews it. So a run that was taken for dead stops, and so do
the workers of a dead driver on other machines that share its file system.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout
from pyarrow import fs

from zsad.errors import UsageError, ZsadError
from zsad.filesystem import exists, join, redact, resolve, retry_io
from zsad.layout import LOCK_HOLDER, PREDICTIONS, RUN
from zsad.storage.files import delete, list_files, write_atomically

_LOCK = ".lock"
BEAT_SECONDS = 15.0
STALE_SECONDS = 60.0
"""A run that has not renewed its lock for so long counts as dead."""
_SETTLE_SECONDS = 1.0
"""Wait between writing the lock to an object store and reading it back. It must be longer than another process takes
between finding no lock and writing its own."""


@dataclass(frozen=True)
class Lock:
    """A held output; may be sent to the processes that write to it.

    Attributes:
        output: folder or URI of the run.
        token: what the holder's file names while the lock is held.
    """

    output: str
    token: str

    def check(self) -> None:
        """That the lock is still held: one small read.

        Raises:
            ZsadError: another run has taken the output over, this one has ended, or the lock cannot be read.
        """
        try:
            found = retry_io(lambda: _read(self.output))
            if found is None:
                # A client of NFS may remember for a minute that a name was missing; opening the folder corrects it.
                list_files(self.output)
                found = retry_io(lambda: _read(self.output))
        except OSError as error:
            raise ZsadError(f"Cannot read the lock of {redact(self.output)!r}: {redact(str(error))}") from error
        if _parse(found).get("token") != self.token:
            raise ZsadError(
                f"Another run has taken over the output {redact(self.output)!r} ({_describe(found)}): this one was "
                "silent for too long. It commits nothing more."
            )


@contextmanager
def output_lock(
    output: str, stream: TextIO | None = None, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS
) -> Iterator[Lock]:
    """Hold the output for the duration of the block; leaves no new folder behind.

    Args:
        output: folder or URI of a run.
        stream: where to print, on an object store, that another run may be alive and is being waited for, and that the
            lock was lost; None = standard error.
        beat: seconds between two renewals.
        stale: seconds after which a silent run counts as dead; several times ``beat``.

    Yields:
        The lock; to be checked before every commit.

    Raises:
        UsageError: another run holds it (says host, process and since when), or it cannot be written to.
    """
    filesystem, folder = resolve(output)
    if isinstance(filesystem, fs.LocalFileSystem):
        with _file_lock(output, Path(folder)) as lock:
            yield lock
    else:
        with _object_lock(output, stream or sys.stderr, beat, stale) as lock:
            yield lock


def check_is_run(output: str) -> None:
    """Raise ``no_results`` where nothing of a run lies."""
    if not exists(join(output, RUN)) and not exists(join(output, PREDICTIONS)):
        raise no_results(output)


def no_results(output: str) -> UsageError:
    """The error of a reader that finds no ``run.json``: there is no run, or one has not come to its first image yet."""
    try:
        found = _read(output)
    except OSError:
        found = None
    if found is not None:
        return UsageError(
            f"No results at {redact(output)!r} yet: {_describe(found)}, has begun a run there. Look again when it has "
            "scored some images; if it was killed, run the same 'zsad score' again."
        )
    return UsageError(
        f"No results at {redact(output)!r}. Expected the folder or URI that was given to 'zsad score --output'."
    )


@contextmanager
def _file_lock(output: str, folder: Path) -> Iterator[Lock]:
    is_new = not folder.exists()
    token = secrets.token_hex(8)
    system_lock = FileLock(folder / _LOCK, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        system_lock.acquire()
    except Timeout:
        raise _refusal(output, _read_local(folder / LOCK_HOLDER)) from None
    except OSError as error:
        raise _unwritable(output, error) from None
    try:
        try:
            write_atomically(str(folder / LOCK_HOLDER), lambda sink: sink.write(_encode(_holder() | {"token": token})))
        except ZsadError as error:
            raise _unwritable(output, error) from None
        yield Lock(output, token)
    finally:
        with suppress(OSError):
            # A shared file system that was out of reach may have given the lock, and so these files, to another run.
            if _parse(_read(str(folder))).get("token", token) == token:
                for name in (LOCK_HOLDER, _LOCK):
                    (folder / name).unlink(missing_ok=True)
        system_lock.release()
        if is_new:
            # Only when still empty.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _object_lock(output: str, stream: TextIO, beat: float, stale: float) -> Iterator[Lock]:
    token = secrets.token_hex(8)
    lock = Lock(output, token)
    holder = _holder() | {"token": token}
    stop = threading.Event()

    def keep_renewing() -> None:
        number = 0
        while not stop.wait(beat):
            # Nothing may end this thread but the end of the lock: a store out of reach just now may be back at the
            # next beat, and if another run took over meanwhile, the object says so.
            with suppress(Exception):
                found = _read(output)
                if _parse(found).get("token") != token:
                    print(f"Another run has taken over the output: {_describe(found)}.", file=stream, flush=True)
                    return
                number += 1
                _write(output, _encode(holder | {"renewed": number}))

    thread = threading.Thread(target=keep_renewing, daemon=True)
    try:
        try:
            _take(lock, holder, stream, beat, stale)
        except OSError as error:
            raise _unwritable(output, error) from None
        thread.start()
        yield lock
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        with suppress(OSError):
            if _parse(_read(output)).get("token") == token:
                delete(output, LOCK_HOLDER)


def _take(lock: Lock, holder: Mapping[str, Any], stream: TextIO, beat: float, stale: float) -> None:
    """Return once the lock is held; refuse when another run holds it that is alive."""
    found = retry_io(lambda: _read(lock.output))
    if found is not None:
        _outlive(lock.output, found, stream, beat, stale)
    retry_io(lambda: _write(lock.output, _encode(holder)))
    # Several processes may have written at once. The last one holds the lock; by now each of them can read which it is.
    time.sleep(_SETTLE_SECONDS)
    found = _read(lock.output)
    if _parse(found).get("token") != lock.token:
        raise _refusal(lock.output, _describe(found))


def _outlive(output: str, found: bytes, stream: TextIO, beat: float, stale: float) -> None:
    """Return once the run that wrote ``found`` is gone or counts as dead; refuse as soon as it renews it."""
    left = stale - _age(output)
    if left > 0:
        print(
            f"Another run began here: {_describe(found)}. Waiting up to {left:.0f} s to see whether it is alive.",
            file=stream,
            flush=True,
        )
    end = time.monotonic() + left
    while time.monotonic() < end:
        time.sleep(max(0.0, min(beat / 3, end - time.monotonic())))
        now = _read(output)
        if now is None:
            return
        if now != found:
            raise _refusal(output, _describe(now))


def _age(output: str) -> float:
    """Seconds since the lock was written, by the store's own clock."""
    name = f"{LOCK_HOLDER}.{secrets.token_hex(4)}"
    filesystem, now = resolve(join(output, name))
    _, then = resolve(join(output, LOCK_HOLDER))
    _write(output, b"", name)
    try:
        times = [info.mtime for info in filesystem.get_file_info([now, then])]
    finally:
        delete(output, name)
    return (times[0] - times[1]).total_seconds() if None not in times else 0.0


def _holder() -> dict[str, Any]:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _encode(holder: Mapping[str, Any]) -> bytes:
    return json.dumps(holder).encode()


def _read(output: str) -> bytes | None:
    """The lock's object, None when there is none. Raises OSError."""
    filesystem, path = resolve(join(output, LOCK_HOLDER))
    try:
        with filesystem.open_input_stream(path) as source:
            return bytes(source.read())
    except FileNotFoundError:
        return None


def _write(output: str, content: bytes, name: str = LOCK_HOLDER) -> None:
    filesystem, path = resolve(join(output, name))
    with filesystem.open_output_stream(path) as sink:
        sink.write(content)


def _read_local(path: Path) -> str:
    try:
        return _describe(path.read_bytes())
    except OSError:
        return "a process that has just begun"


def _parse(content: bytes | None) -> dict[str, Any]:
    try:
        holder = json.loads(content or b"{}")
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _describe(content: bytes | None) -> str:
    if content is None:
        return "a process that has ended"
    holder = _parse(content)
    try:
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except KeyError:
        return "a process that does not say which"


def _refusal(output: str, holder: str) -> UsageError:
    return UsageError(
        f"Another run is writing to the output {redact(output)!r}: {holder}. Wait for it, stop it, or give another "
        "--output. (A run that died holds nothing.)"
    )


def _unwritable(output: str, error: Exception) -> UsageError:
    return UsageError(
        f"Cannot write to the output {redact(output)!r}: {redact(str(error))}. Expected a folder or bucket that "
        "this user may write to."
    )
