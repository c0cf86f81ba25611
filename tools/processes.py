"""Processes of a Ray job, found in /proc (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """All processes below ``pid``, without itself."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = [child for child in children.get(waiting.pop(), []) if child not in found]
        found.update(new)
        waiting += new
    return found


def map_workers(pids: Iterable[int]) -> list[int]:
    """Those of ``pids`` that are actors of a pool, as Ray names them."""
    return sorted(pid for pid in pids if command(pid).startswith("ray::") and "MapWorker" in command(pid))


def command(pid: int) -> str:
    """The command line of a process, empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def alive(pids: Iterable[int]) -> set[int]:
    """Those of ``pids`` that still run; one that is dead but not yet waited for does not."""
    return {pid for pid in pids if _state(pid) not in ("", "Z", "X")}


def wait_gone(pids: Iterable[int], seconds: float) -> set[int]:
    """Those of ``pids`` that still run after ``seconds``; returns earlier when none does."""
    end = time.monotonic() + seconds
    left = alive(pids)
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = alive(left)
    return left


def _parents() -> dict[int, int]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            found[int(name)] = int(fields[1])
    return found


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _stat(pid: int) -> list[str]:
    """State, parent and so on; empty when the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
