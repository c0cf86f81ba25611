"""The process of a command: its exit codes, what it writes to stderr, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from zsad.errors import UsageError, ZsadError


@contextmanager
def as_command() -> Iterator[None]:
    """Run the block as a command: it exits with 1 for a ZsadError, 2 for a UsageError and 143 at SIGTERM.

    Errors and our own warnings are one line each on stderr, whose reader may leave without ending the command. The
    answer to SIGTERM and the form of warnings stay after the block.

    Raises:
        SystemExit: with one of these codes.
    """
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stderr, sys.stderr = sys.stderr, cast(TextIO, _Stderr(sys.stderr))
    try:
        yield
    except UsageError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except ZsadError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        sys.stderr = stderr


def exit_at_once(code: int) -> NoReturn:
    """End this process with this exit code, without Python's own clean-up.

    Python would first take a million objects of torch and transformers apart: two seconds in which nothing happens.
    """
    # Everything else is closed by now by whoever opened it, Ray too. A stream that was closed from the start is None.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)


class _Stderr:
    """The error stream, whose reader may leave (``zsad score ... 2>&1 | head``) without ending the run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            return self._leave(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave("")

    def _leave(self, text: str) -> int:
        # What is still buffered goes there, too; else Python fails at its own exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        return len(text)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
    """Our own warnings in one line; those of libraries are for their developers."""
    if category is UserWarning and Path(__file__).parent in Path(filename).parents:
        print(f"Warning: {message}", file=sys.stderr)
