"""Whose turn it is on a device that several threads work with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from zsad.steps.isolation import memory_is_short


class Turns:
    """Each step works on one batch at a time, while the other steps work on other batches.

    So a GPU has something to do while one of them waits for the host, and the host while one of them waits for the GPU,
    where each step has a stream of its own. While memory is short, only one step works at a time.

    Args:
        device: torch device.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._at_work: set[str] = set()
        self._changed = threading.Condition()
        self._streams: dict[str, torch.cuda.Stream] = {}

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Wait for the turn of the step, and have it until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work if memory_is_short() else step not in self._at_work)
            self._at_work.add(step)
        try:
            with self._on_its_stream(step):
                yield
        finally:
            with self._changed:
                self._at_work.remove(step)
                self._changed.notify_all()

    def _on_its_stream(self, step: str) -> AbstractContextManager[object]:
        if self._device.type != "cuda":
            return nullcontext()
        if step not in self._streams:
            stream = self._streams[step] = torch.cuda.Stream(self._device)
            # On that one the weights came to the device.
            stream.wait_stream(torch.cuda.default_stream(self._device))
        return torch.cuda.stream(self._streams[step])
