"""CUDA graphs: what a function launches on a GPU is recorded once and then launched as one.

A network of hundreds of small kernels takes longer to launch than to compute.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zsad.models.turns import alone

_LOG = logging.getLogger(__name__)
_WARM_UPS = 3
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "ALLOC_FAILED",
    "Insufficient memory",
    "CUDA error: out of memory",
    "Error [CUDA]: out of memory",
)
"""How out-of-memory reads where it has no type of its own: torch on the CPU, cuBLAS and cuDNN, OpenCV, pinned memory and
graphs, Triton."""
_RECORDING = threading.Lock()
_ALL: weakref.WeakSet[CUDAGraphs] = weakref.WeakSet()

Outputs = Any
"""A tensor, or a tuple of tensors."""
Replay = Callable[[Sequence[Tensor]], Outputs]


class CUDAGraphs:
    """A function of tensors, replayed as a CUDA graph where they are on a GPU, without gradients.

    There is a graph for every layout of inputs: shapes, types and strides. A call with a new layout takes several
    times as long. Where the function cannot be recorded, it is called, after one warning.

    Calls come from one stream. Copies and pickles start without graphs.

    Args:
        function: of tensors, always on the same device, to a tensor or a tuple of tensors. It launches the same work
            at every call with the same layout and never waits for the device. What else it reads, such as weights,
            stays where it is. An autocast inside has ``cache_enabled=False``.
        keep: so many graphs are held, those used last. They share their working memory.
    """

    def __init__(self, function: Callable[..., Outputs], keep: int = 4) -> None:
        self._function = function
        self._keep = keep
        self._lock = threading.Lock()
        self._replays: dict[Any, Replay] = {}
        self._pool: Any = None
        self._stream: Any = None
        self._recordable = True
        _ALL.add(self)

    def forget(self) -> None:
        """Give up all graphs."""
        with self._lock:
            self._replays.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._function, self._keep)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Outputs:
        """``function(*inputs)``; the caller may keep what is returned.

        Raises:
            torch.OutOfMemoryError: of the call or of the recording, which gives all graphs up.
        """
        if not self._recordable or not self._on_gpu(inputs):
            return self._function(*inputs)
        layout = tuple((one.shape, one.dtype, one.stride()) for one in inputs)
        if layout not in self._replays:
            # What other threads launch meanwhile might end the recording, or be ended by it.
            with alone(), self._lock:
                self._add(layout, inputs)
        with self._lock:
            replay = self._replays.pop(layout, None)
            if replay is not None:
                # The last in order is the one used last.
                self._replays[layout] = replay
                return replay(inputs)
        return self._function(*inputs)

    def _add(self, layout: Any, inputs: Sequence[Tensor]) -> None:
        if layout in self._replays or not self._recordable:
            # By another thread, meanwhile.
            return
        while len(self._replays) >= self._keep:
            del self._replays[next(iter(self._replays))]
        replay = self._recorded(inputs)
        if replay is not None:
            self._replays[layout] = replay

    def _on_gpu(self, inputs: Sequence[Tensor]) -> bool:
        return all(one.is_cuda for one in inputs)

    def _recorded(self, inputs: Sequence[Tensor]) -> Replay | None:
        """``_record``, or None for good where that fails."""
        try:
            return self._record(inputs)
        except Exception as error:
            self._replays.clear()
            exhausted = _out_of_memory(error)
            if exhausted is not None:
                try:
                    raise exhausted from None
                finally:
                    # Its traceback names this frame: together they would keep what the recording had allocated.
                    del exhausted
            self._recordable = False
            _LOG.warning("No CUDA graph, so kernels are launched one by one: %s", str(error).partition("\n")[0])
            return None

    def _record(self, inputs: Sequence[Tensor]) -> Replay:
        device = inputs[0].device
        fixed = [one.clone() for one in inputs]
        graph = torch.cuda.CUDAGraph()
        # A recording waits for the whole device, which must not happen during another.
        with _RECORDING, torch.cuda.device(device):
            # Graphs share memory only if they are recorded on one stream.
            stream = self._stream = self._stream or torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            # This outer context brings the stream back even if the end of the recording raises.
            with torch.cuda.stream(stream):
                # Compiles, chooses algorithms and fills caches, none of which can be recorded.
                for _ in range(_WARM_UPS):
                    self._function(*fixed)
                pool = self._pool if self._replays else None
                with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                    outputs = self._function(*fixed)
            torch.cuda.current_stream().wait_stream(stream)
        # Graphs may share their memory, as the outputs of one are copied before the next is replayed.
        self._pool = graph.pool()

        def replay(given: Sequence[Tensor]) -> Outputs:
            for own, one in zip(fixed, given, strict=True):
                own.copy_(one, non_blocking=True)
            graph.replay()
            return outputs.clone() if isinstance(outputs, Tensor) else tuple(one.clone() for one in outputs)

        return replay


def out_of_memory(error: BaseException) -> bool:
    """Whether the host or the GPU had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in _NO_MEMORY)


def free_memory() -> None:
    """Give back all graphs of this process and the memory that they hold, torch's memory on the GPU and pinned memory.

    Graphs are recorded again when needed.
    """
    for graphs in list(_ALL):
        graphs.forget()
    if torch.cuda.is_available():
        # During a recording torch refuses to.
        with _RECORDING:
            torch.cuda.empty_cache()
        if hasattr(torch.accelerator, "empty_host_cache"):  # not in torch 2.6
            torch.accelerator.empty_host_cache()


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """The out-of-memory error that is, or led to, another one."""
    while error is not None and not out_of_memory(error):
        error = error.__context__
    return error
