"""Steps at work on a device at the same time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch

from zsad.config import load_config
from zsad.datasets import load_manifest
from zsad.pipeline.actor import StepActor
from zsad.pipeline.pools import Pool
from zsad.pipeline.turns import Turns
from zsad.steps import isolation
from zsad.steps.isolation import DeviceBatches, free_memory, memory_is_short

TWO = Pool("two", ("saliency", "instances"), 1, 0.0, 1, 2)


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory ran out before, and what runs out here is forgotten afterwards."""
    monkeypatch.setattr(isolation._Memory, "ran_out", -math.inf)


class Noting:
    """A step that notes which steps are at work with it, once two threads are in a step or that takes too long."""

    def __init__(self, name: str, seen: list[tuple[str, ...]], at_work: list[str], meet: threading.Barrier) -> None:
        self.name, self.seen, self.at_work, self.meet = name, seen, at_work, meet

    def __call__(self, items: object) -> None:
        self.at_work.append(self.name)
        try:
            self.meet.wait(0.3)
        except threading.BrokenBarrierError:
            self.meet.reset()
        self.seen.append(tuple(sorted(self.at_work)))
        self.at_work.remove(self.name)


def seen_together(tmp_path: object, ledger: object) -> list[tuple[str, ...]]:
    """Steps at work at the same time, while an actor of two steps has two batches."""
    seen: list[tuple[str, ...]] = []
    at_work: list[str] = []
    meet = threading.Barrier(2)
    for name in "abcd":
        cv2.imwrite(f"{tmp_path}/{name}.png", np.zeros((20, 20, 3), np.uint8))
    manifest = load_manifest("folder", str(tmp_path), object_name="nut")

    class Actor(StepActor):
        def build(self, config, names):
            return [Noting(name, seen, at_work, meet) for name in names]

    actor = Actor(TWO, load_config("mini", None, ["runtime.device=cpu"]), "f" * 64, ledger)
    with ThreadPoolExecutor(2) as threads:
        tables = list(threads.map(actor, [manifest.slice(start, 1) for start in range(4)]))
    assert sum(table.num_rows for table in tables) == 4 and len(seen) == 8
    return seen


def test_two_steps_work_on_two_batches_and_no_step_on_both(tmp_path, ledger):
    seen = seen_together(tmp_path, ledger)
    assert ("instances", "saliency") in seen
    assert not {("saliency", "saliency"), ("instances", "instances")} & set(seen)


def test_while_memory_is_short_one_step_works_at_a_time(tmp_path, ledger):
    free_memory()
    assert {len(together) for together in seen_together(tmp_path, ledger)} == {1}


def test_memory_is_short_for_some_minutes_after_it_ran_out():
    clock = iter([100.0, 101.0, 690.0, 701.0])
    assert not memory_is_short()
    with patch.object(isolation.time, "monotonic", lambda: next(clock)):
        free_memory()
        assert [memory_is_short() for _ in range(3)] == [True, True, False]


def test_a_turn_ends_with_an_error_too():
    turns = Turns("cpu")
    for _ in range(2):
        with pytest.raises(ValueError, match="step"), turns.of("instances"):
            raise ValueError("step")


def test_a_step_has_the_same_stream_whenever_its_turn_comes_and_no_other_has_it():
    log: list[tuple[object, ...]] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            assert device == torch.device("cuda")

        def wait_stream(self, other: object) -> None:
            log.append((self, other))

        def __enter__(self) -> Iterator[None]:
            log.append((self,))

        def __exit__(self, *_: object) -> None:
            pass

    with patch.multiple(
        torch.cuda, Stream=Stream, stream=lambda stream: stream, default_stream=lambda device: f"default of {device}"
    ):
        turns = Turns("cuda")
        for step in ("saliency", "instances", "saliency"):
            with turns.of(step):
                pass
    first, second = log[1][0], log[3][0]
    assert first is not second
    assert log == [(first, "default of cuda"), (first,), (second, "default of cuda"), (second,), (first,)]


def test_how_many_tiles_ran_out_of_memory_is_remembered_once_no_other_step_was_at_work():
    batches, asked = DeviceBatches(), []

    def forward(window: slice) -> None:
        asked.append(window.stop - window.start)
        if asked[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for _ in range(3):
        batches.run(16, 16, forward)
    assert asked == [16, 8, 8, 16, 8, 8, 8, 8]
