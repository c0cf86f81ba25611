"""How many images the host works on at once, in threads: what decodes, resizes and finishes them lets others run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from zsad.config import Config

T = TypeVar("T")

_LEAST, _MOST = 2, 8
"""Two read one file while they decode another; a batch has eight images."""


def file_threads(config: Config) -> int:
    """Files to read and decode at once: ``runtime.threads``, or the threads that torch may use, at least 2 and at most 8."""
    return config.runtime.threads or min(_MOST, max(_LEAST, torch.get_num_threads()))


def host_threads(config: Config, device: str) -> int:
    """Images to prepare and finish at once beside a model: as ``file_threads``; 1 on a CPU, whose cores the model takes."""
    return 1 if torch.device(device).type == "cpu" else file_threads(config)


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
    """``map(work, inputs)``, with ``threads`` calls at a time that begin at once."""
    return _pool(threads).map(work, inputs)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # Kept for the life of the process, since threads keep memory for resizing.
    return ThreadPoolExecutor(threads)
