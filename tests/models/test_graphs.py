"""Which calls are recorded, replayed or simply made; what a graph itself does needs a GPU."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import weakref

import pytest
import torch

from zsad.models.graphs import CUDAGraphs, free_memory


def double(x, y=None):
    return 2 * x if y is None else (2 * x, 2 * y)


class Fake(CUDAGraphs):
    """Takes CPU tensors for those of a GPU; a graph's result is told by its sign."""

    def __init__(self, function, keep=4, error=None):
        super().__init__(function, keep)
        self.error, self.recorded = error, []

    def _on_gpu(self, inputs):
        return True

    def _record(self, inputs):
        self.recorded.append([tuple(one.shape) for one in inputs])
        if self.error is not None:
            self.error()
        return lambda given: -self._function(*given)


def test_on_a_cpu_the_function_is_called():
    graphs = CUDAGraphs(double)
    x = torch.ones(2, requires_grad=True)
    assert torch.equal(graphs(x), 2 * x) and not graphs(x).requires_grad
    first, second = graphs(x, x + 1)
    assert torch.equal(first, 2 * x) and torch.equal(second, 2 * x + 2)


def test_a_layout_is_recorded_once():
    graphs = Fake(double)
    assert torch.equal(graphs(torch.ones(2, 3)), torch.full((2, 3), -2.0))
    assert torch.equal(graphs(torch.zeros(2, 3) + 4), torch.full((2, 3), -8.0))
    assert len(graphs.recorded) == 1
    for other in (torch.ones(3, 2), torch.ones(2, 3).double(), torch.ones(3, 2).T):
        graphs(other)
    assert len(graphs.recorded) == 4


def test_the_layout_used_longest_ago_is_dropped():
    graphs = Fake(double, keep=2)
    for size in (1, 2, 1, 3, 1, 2):
        graphs(torch.ones(size))
    assert [shapes[0][0] for shapes in graphs.recorded] == [1, 2, 3, 2]


def test_what_cannot_be_recorded_is_called_after_one_warning(caplog):
    def fail():
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = Fake(double, error=fail)
    with caplog.at_level(logging.WARNING):
        for size in (1, 1, 2):
            assert torch.equal(graphs(torch.ones(size)), torch.full((size,), 2.0))
    assert len(graphs.recorded) == 1
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "operation not permitted when stream is capturing"
    ]


def test_out_of_memory_is_the_callers_and_graphs_are_given_up():
    def fail():
        try:
            raise torch.OutOfMemoryError("no memory")
        finally:
            # What the end of a recording that has failed raises.
            raise RuntimeError("capture failed")

    graphs = Fake(double)
    graphs(torch.ones(1))
    graphs.error = fail
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError, match="no memory"):
            graphs(torch.ones(2))
    graphs.error = None
    assert torch.equal(graphs(torch.ones(1)), torch.full((1,), -2.0))
    assert [shapes[0][0] for shapes in graphs.recorded] == [1, 2, 2, 1]


def test_what_a_recording_has_allocated_is_free_once_its_error_is_handled():
    allocated = []

    def fail():
        working_memory = torch.ones(1)
        allocated.append(weakref.ref(working_memory))
        raise torch.OutOfMemoryError("no memory")

    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            Fake(double, error=fail)(torch.ones(2))
        assert allocated[0]() is not None
        del caught
        assert allocated[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_start_without_graphs(duplicate):
    graphs = CUDAGraphs(double, keep=3)
    graphs._replays["layout"] = lambda given: None
    other = duplicate(graphs)
    assert other._keep == 3 and not other._replays
    assert torch.equal(other(torch.ones(2)), torch.full((2,), 2.0))


def test_all_graphs_can_be_given_up_and_are_recorded_again():
    graphs = Fake(double)
    for _ in range(2):
        graphs(torch.ones(1))
    free_memory()
    assert not graphs._replays
    assert torch.equal(graphs(torch.ones(1)), torch.full((1,), -2.0))
    assert len(graphs.recorded) == 2
