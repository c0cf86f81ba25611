"""Progress that reads well in a terminal (one line that moves) and in a job log (one line now and then)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import ray

from zsad.pipeline.text import failure_line, progress_line, remark_line
from zsad.text import count

FailedImage = tuple[str, str, str, str]
"""image_id, stage, type, message."""


@dataclass(frozen=True)
class Snapshot:
    """What the ``Ledger`` has counted.

    Attributes:
        done: finished images; failed: those without a score.
        failures: the failed images that the reader has not seen yet.
        remarked: scored images with a remark; remark: the first of them, image_id and remark.
        stage_ms: stage -> milliseconds, summed over the finished images; in the order of the stages.
        failed_at: stage -> images that failed in it and did not reach the next.
        seconds: since the first images were begun, with the models loaded; 0 before.
    """

    done: int
    failed: int
    failures: tuple[FailedImage, ...]
    stage_ms: Mapping[str, float]
    remarked: int = 0
    remark: tuple[str, str] | None = None
    failed_at: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class ProgressReporter:
    """Prints the counts of the ledger until the ``with`` block ends, and one line for every image that failed.

    Args:
        ledger: handle of the run's ``Ledger`` actor.
        total: images of this run.
        stream: where to print; a terminal gets one moving line, anything else a line every ten seconds.
    """

    def __init__(self, ledger: Any, total: int, stream: TextIO) -> None:
        self._ledger = ledger
        self._total = total
        self._stream = stream
        self._terminal = stream.isatty()
        self._interval = 0.5 if self._terminal else 10.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._last = Snapshot(-1, 0, (), {})

    def __enter__(self) -> ProgressReporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._print()
        if self._terminal:
            self._stream.write("\n")
        if self._last.remark is not None:
            images = count(self._last.remarked, "scored image")
            self._stream.write(f"{images} with a remark in error_message, e.g. {remark_line(*self._last.remark)}\n")
        self._stream.flush()

    @property
    def stage_ms(self) -> dict[str, float]:
        """Milliseconds per image and stage, the mean over the images finished so far that reached the stage."""
        means, reached = {}, self._last.done
        for stage, ms in self._last.stage_ms.items():
            means[stage] = round(ms / max(reached, 1), 3)
            reached -= self._last.failed_at.get(stage, 0)
        return means

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._print()

    def _print(self) -> None:
        try:
            now: Snapshot = ray.get(self._ledger.read.remote(self._last.failed), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return
        idle = (now.done, now.failed) == (self._last.done, self._last.failed)
        self._last = now
        if idle and (now.done >= self._total or not self._terminal):
            return
        clear = "\r\x1b[2K" if self._terminal else ""
        for failure in now.failures:
            self._stream.write(f"{clear}{failure_line(*failure)}\n")
        line = progress_line(now.done, self._total, now.failed, now.seconds)
        self._stream.write(f"{clear}{line}" if clear else f"{time.strftime('%H:%M:%S')} {line}\n")
        self._stream.flush()
