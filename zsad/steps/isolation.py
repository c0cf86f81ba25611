"""What keeps the failure of one image from the others: tries again, halves of a batch, and what ends the process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from zsad.errors import ImageError, UsageError
from zsad.filesystem import BACK_OFF, sleep_with_jitter
from zsad.models import graphs
from zsad.models.graphs import out_of_memory
from zsad.models.turns import is_alone, stay_alone

if TYPE_CHECKING:
    from zsad.steps.item import ImageItem

T = TypeVar("T")

_MEMORY_BACK_OFF = (0.5, 2.0)
"""Seconds to wait before each retry after running out of memory, which other processes may free meanwhile."""


_LOST_DEVICE = "CUDA error", "Triton Error [CUDA]", "CUDNN_STATUS_EXECUTION_FAILED"
"""How a lost CUDA context reads in the errors of torch, Triton and cuDNN."""


def attempt(stage: str, item: ImageItem, work: Callable[[ImageItem], object]) -> None:
    """Run ``work(item)``, with retries as ``retry_item``; an exception becomes the item's failure.

    Raises:
        Exception: one that ``condemns_process``.
    """
    try:
        retry_item(lambda: work(item))
    except Exception as error:
        if condemns_process(error):
            raise
        item.fail(stage, error)


def isolate(stage: str, items: Sequence[ImageItem], work: Callable[[list[ImageItem]], object]) -> None:
    """Run ``work`` on all items at once; on failure on each half, down to the image that causes it.

    That one is tried again where it may pass by itself.

    ``work`` can be repeated on a half: it assigns its results after it has succeeded, or passes over what it has done.
    """
    if not items:
        return
    try:
        if len(items) == 1:
            retry_item(lambda: work(list(items)))
        else:
            work(list(items))
        return
    except Exception as error:
        if condemns_process(error):
            raise
        if len(items) == 1:
            items[0].fail(stage, error)
            return
        exhausted = out_of_memory(error)
    # After the except block, which keeps what the failed call had allocated alive.
    if exhausted and free_memory():
        isolate(stage, items, work)
        return
    middle = len(items) // 2
    isolate(stage, items[:middle], work)
    isolate(stage, items[middle:], work)


class DeviceBatches:
    """Calls of a model with many elements at once.

    How many ran out of memory, with no other step at work, is remembered, and not tried again.
    """

    def __init__(self) -> None:
        self._most = sys.maxsize

    def run(self, count: int, target: int, forward: Callable[[slice], T]) -> list[T]:
        """``forward`` of consecutive slices of ``count`` elements; when memory runs out, of half as many.

        Args:
            count: elements, 0 or more.
            target: the slices are as even as can be, none under this size where that is possible.
            forward: called with one slice after the other.
        """
        size = min(self._most, max(1, -(-count // max(1, count // target))))
        results: list[T] = []
        start = 0
        while start < count:
            try:
                results.append(forward(slice(start, min(start + size, count))))
                start += size
            except Exception as error:
                if not out_of_memory(error) or (size == 1 and is_alone()):
                    raise
            else:
                continue
            # After the except block, which keeps what the failed call had allocated alive.
            if not free_memory():
                self._most = size = size // 2
        return results


def retry_item(work: Callable[[], T]) -> T:
    """Result of ``work()``; it is retried after transient errors: twice out of memory, four times for I/O."""
    tries = 0
    while True:
        try:
            return work()
        except Exception as error:
            waits = BACK_OFF if isinstance(error, ImageError) else _MEMORY_BACK_OFF
            if not is_transient(error) or tries >= len(waits):
                raise
            wait = waits[tries]
            exhausted = out_of_memory(error)
        tries += 1
        # After the except block, which keeps what the failed call had allocated alive.
        if exhausted:
            free_memory()
        sleep_with_jitter(wait)


def is_transient(error: Exception) -> bool:
    """Whether a retry may help: other processes may free memory, and a store may come back into reach."""
    return out_of_memory(error) or (isinstance(error, ImageError) and error.transient)


def free_memory() -> bool:
    """After memory ran out: give back what is kept for later, and have the device to oneself until the end of the turn.

    Returns:
        Whether another step may have been at work on it until now; then what needed too much memory may find enough.
    """
    shared = not is_alone()
    stay_alone()
    graphs.free_memory()
    return shared


def condemns_process(error: Exception) -> bool:
    """Whether no other image can succeed in this process either: wrong usage, a missing package, or a lost GPU."""
    return isinstance(error, UsageError | ImportError) or lost_device(error)


def lost_device(error: Exception) -> bool:
    """Whether the process has lost its CUDA context; only another process gets a new one."""
    return not out_of_memory(error) and any(text in str(error) for text in _LOST_DEVICE)
