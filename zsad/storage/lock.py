"""One writer at a time: an output is locked while a run writes to it.

On a file system the operating system holds the lock, so it ends with its process however that dies. An object
store has no locks: there every run renews a small object (its heartbeat), and one that stays silent is dead.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout
from pyarrow import fs

from zsad.errors import UsageError, ZsadError
from zsad.filesystem import join, redact, resolve
from zsad.storage.files import delete, list_files, write_atomically

_LOCK = ".lock"
_HOLDER = ".lock.json"
_HEARTBEATS = ".running"
BEAT_SECONDS = 15.0
STALE_SECONDS = 60.0
"""A heartbeat that did not change for so long is that of a dead run."""


@contextmanager
def output_lock(
    output: str, stream: TextIO = sys.stderr, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS
) -> Iterator[None]:
    """Hold the output for the duration of the block; leaves no new folder behind.

    Args:
        output: folder or URI of a run.
        stream: told when the end of another run's heartbeat is waited for (object stores only).
        beat: seconds between two heartbeats.
        stale: seconds after which a silent run counts as dead; several times ``beat``.

    Raises:
        UsageError: another run holds it (says host, process and since when), or it cannot be written to.
    """
    filesystem, folder = resolve(output)
    if isinstance(filesystem, fs.LocalFileSystem):
        with _file_lock(output, Path(folder)):
            yield
    else:
        with _heartbeat(output, stream, beat, stale):
            yield


@contextmanager
def _file_lock(output: str, folder: Path) -> Iterator[None]:
    is_new = not folder.exists()
    lock = FileLock(folder / _LOCK, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise _refusal(output, _read_holder(folder / _HOLDER)) from None
    except OSError as error:
        raise _unwritable(output, error) from None
    try:
        try:
            write_atomically(str(folder / _HOLDER), lambda sink: sink.write(_holder()))
        except ZsadError as error:
            raise _unwritable(output, error) from None
        yield
    finally:
        for name in (_HOLDER, _LOCK):
            (folder / name).unlink(missing_ok=True)
        lock.release()
        if is_new:
            # Only when still empty.
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _heartbeat(output: str, stream: TextIO, beat: float, stale: float) -> Iterator[None]:
    name = f"{secrets.token_hex(8)}.json"
    own = join(output, _HEARTBEATS, name)
    content = _holder()
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(beat):
            # A store out of reach just now may be back at the next beat.
            with suppress(ZsadError):
                write_atomically(own, lambda sink: sink.write(content))

    try:
        write_atomically(own, lambda sink: sink.write(content))
    except ZsadError as error:
        raise _unwritable(output, error) from None
    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        # Everyone writes first and looks then, so of two that start together at least one sees the other.
        _outlive_the_dead(output, name, stream, beat, stale)
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError):
            delete(output, _HEARTBEATS, name)


def _outlive_the_dead(output: str, own: str, stream: TextIO, beat: float, stale: float) -> None:
    """Return once no other run has a heartbeat; refuse as soon as one of them beats."""
    first_seen: dict[str, datetime | None] = {}
    start = time.monotonic()
    while True:
        found = {info.base_name: info.mtime for info in list_files(join(output, _HEARTBEATS))}
        now = found.pop(own, None)
        for name, mtime in found.items():
            if first_seen.setdefault(name, mtime) != mtime:
                raise _refusal(output, _read_holder_object(output, name))
            # Both times are the store's, so the clocks of the two machines do not matter.
            silent = (now - mtime).total_seconds() if now is not None and mtime is not None else 0.0
            if max(silent, time.monotonic() - start) > stale:
                delete(output, _HEARTBEATS, name)
            elif time.monotonic() - start < beat / 3:
                print(
                    f"Another run began here: {_read_holder_object(output, name)}. Waiting up to {stale:g} s to see "
                    "whether it is alive.",
                    file=stream,
                    flush=True,
                )
        if not found:
            return
        time.sleep(beat / 3)


def _holder() -> bytes:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}).encode()


def _read_holder(path: Path) -> str:
    try:
        return _describe(path.read_bytes())
    except OSError:
        return "a process that has just begun"


def _read_holder_object(output: str, name: str) -> str:
    filesystem, path = resolve(join(output, _HEARTBEATS, name))
    try:
        with filesystem.open_input_stream(path) as source:
            return _describe(source.read())
    except OSError:
        return "a process that has just ended"


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
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
