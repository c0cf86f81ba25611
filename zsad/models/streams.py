"""Streams of a GPU, on which work goes on while other work is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class TwoStreams:
    """One stream for large work that is launched ahead, and one for small work whose results the host waits for.

    The small work has priority: its kernels do not queue behind those of the large work. Other devices than NVIDIA's
    or AMD's have no streams, and everything is done at once and in order. Copies and pickles start with new streams.

    Args:
        device: torch device.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._large, self._small = None, None
        if torch.device(device).type == "cuda":
            self._large, self._small = torch.cuda.Stream(device), torch.cuda.Stream(device, priority=-1)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._device,)

    def follow(self) -> None:
        """What is launched on either from now on begins once all that was launched so far is done."""
        if self._large is not None and self._small is not None:
            self._small.wait_stream(torch.cuda.current_stream(self._device))
            self._large.wait_stream(self._small)

    @contextmanager
    def large(self, *reads: Tensor) -> Iterator[None]:
        """Launch on the stream of large work; ``reads`` may be let go before it is done."""
        if self._large is None:
            yield
            return
        for tensor in reads:
            tensor.record_stream(self._large)
        with torch.cuda.stream(self._large):
            yield

    def record_large(self) -> torch.cuda.Event | None:
        """A CUDA event recorded after all large work launched so far; None without streams."""
        return None if self._large is None else self._large.record_event()

    @contextmanager
    def small(self) -> Iterator[None]:
        """Launch on the stream of small work."""
        if self._small is None:
            yield
            return
        with torch.cuda.stream(self._small):
            yield
