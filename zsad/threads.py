"""How many images the host works on at once, in threads: what decodes, resizes and finishes them lets others run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from zsad.config import Config

T = TypeVar("T")

_FILES = 2
"""One is read while another is decoded."""
_MOST = 8
"""A batch has eight images."""


def file_threads(config: Config) -> int:
    """Files of a batch to read and decode at once: ``runtime.threads``, or 2."""
    return config.runtime.threads or _FILES


def host_threads(config: Config, device: str) -> int:
    """Images to prepare and finish at once beside a model: 1 on a CPU, whose cores the model takes.

    Beside a GPU ``runtime.threads``, or as many as torch may use, at least 2 and at most 8.
    """
    if torch.device(device).type == "cpu":
        return 1
    return config.runtime.threads or min(_MOST, max(_FILES, torch.get_num_threads()))


def in_threads(work: Callable[..., T], *inputs: Iterable[object], threads: int) -> list[T]:
    """``list(map(work, *inputs))``, with ``threads`` calls at a time; returns, or raises, once none goes on.

    ``work`` must not call this function itself.
    """
    calls = list(zip(*inputs, strict=True))
    if threads == 1 or len(calls) == 1:
        return [work(*each) for each in calls]
    running = [_pool(threads).submit(work, *each) for each in calls]
    wait(running)
    return [future.result() for future in running]


def begun_in_threads(work: Callable[..., T], inputs: Iterable[object], threads: int) -> Iterator[T]:
    """``map(work, inputs)``, with ``threads`` calls at a time that begin at once, in other threads than the caller's."""
    return _pool(threads).map(work, inputs)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # Kept for the life of the process, since threads keep memory for resizing.
    return ThreadPoolExecutor(threads)


# A process that forks leaves its threads behind.
os.register_at_fork(after_in_child=_pool.cache_clear)
