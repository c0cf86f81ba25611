"""CPU time, memory and the machine. Linux only: it reads /proc."""

from __future__ import annotations

import os
import platform
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import torch

_TICKS = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("torch", "numpy", "opencv-python-headless", "pillow", "ray")


class Stopwatch:
    """CPU seconds of this process, summed over the blocks and calls it was put around."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - start

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its calls timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.running():
                return function(*args, **kwargs)

        return timed


def one_thread() -> None:
    """Nothing may run beside what is measured: on a busy machine a second thread costs more than it gives."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def fastest(*contestants: Callable[[], Any], repeats: int = 5) -> list[float]:
    """CPU seconds of each contestant: the least of ``repeats`` calls, taken in turns."""
    times = [[cpu_seconds(work) for work in contestants] for _ in range(repeats)]
    return [min(column) for column in zip(*times, strict=True)]


def extra_memory(work: Callable[[], Any]) -> int:
    """Bytes that Python, NumPy and OpenCV's arrays hold at most during a call beyond what they held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def family() -> list[int]:
    """This process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


class FamilyClock:
    """CPU seconds of this process and all its descendants, ended ones included, while it is entered.

    A thread looks at them again and again, because Ray's workers leave no trace when they end; its own time does not
    count.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, str], float] = {}
        self._watching = 0.0
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> FamilyClock:
        self.read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def read(self) -> float:
        """The sum so far; only differences mean something."""
        with self._lock:
            start = time.thread_time()
            for pid in family():
                if fields := _stat(pid):
                    # The start time tells processes of the same number apart.
                    self._seconds[pid, fields[19]] = (int(fields[11]) + int(fields[12])) / _TICKS
            self._watching += time.thread_time() - start
            return sum(self._seconds.values()) - self._watching

    def read_of(self, pid: int) -> float:
        """As ``read``, of one process alone; as of the last look."""
        with self._lock:
            seconds = sum(seconds for (other, _), seconds in self._seconds.items() if other == pid)
            return seconds - (self._watching if pid == os.getpid() else 0)

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.read()


def resident_bytes(pid: int) -> int:
    """Private resident memory of a process (without pages it shares, such as the object store's); 0 if it is gone."""
    resident, shared = _pages(pid)
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def shared_bytes(pid: int) -> int:
    """Resident memory that a process shares with others; 0 if it is gone."""
    return _pages(pid)[1] * os.sysconf("SC_PAGE_SIZE")


def machine() -> str:
    """One paragraph: when, where, with what."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: not measured on GPU"
    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({model}), "
        f"{int(memory.split()[1]) / 2**20:.0f} GiB, GPU {gpu}; load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {packages}. CPU time of one thread, ratios within one process, "
        f"random weights unless said otherwise."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _pages(pid: int) -> tuple[int, int]:
    try:
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    except (OSError, ValueError):
        return 0, 0
    return int(resident), int(shared)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ...; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
