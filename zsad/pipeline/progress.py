"""Progress that reads well in a terminal (one line that moves) and in a job log (one line now and then)."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, TextIO

import ray

from zsad.pipeline.text import progress_line


class ProgressCounter:
    """Counts finished images; a Ray actor that the last pool tells."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0

    def add(self, done: int, failed: int) -> None:
        """Count ``done`` finished images, ``failed`` of them without a score."""
        self.done += done
        self.failed += failed

    def read(self) -> tuple[int, int]:
        """(finished, failed)."""
        return self.done, self.failed


class ProgressReporter:
    """Prints the counter until the ``with`` block ends.

    Args:
        counter: handle of a ``ProgressCounter`` actor.
        total: images of this run.
        stream: where to print; a terminal gets one moving line, anything else a line every ``interval`` s.
    """

    def __init__(self, counter: Any, total: int, stream: TextIO = sys.stderr, interval: float = 10.0) -> None:
        self._counter = counter
        self._total = total
        self._stream = stream
        self._terminal = stream.isatty()
        self._interval = 0.5 if self._terminal else interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._start = time.monotonic()
        self._last = (-1, -1)

    def __enter__(self) -> ProgressReporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._print()
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._print()

    def _print(self) -> None:
        try:
            done, failed = ray.get(self._counter.read.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return
        if (done, failed) == self._last and (done >= self._total or not self._terminal):
            return
        self._last = (done, failed)
        line = progress_line(done, self._total, failed, time.monotonic() - self._start)
        if self._terminal:
            self._stream.write(f"\r\x1b[2K{line}")
        else:
            self._stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self._stream.flush()
