"""Steps at work on a device at the same time, and alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from zsad.models import turns as turns_module
from zsad.models.graphs import CUDAGraphs
from zsad.models.turns import Turns, alone, is_alone, stay_alone
from zsad.steps.isolation import DeviceBatches, isolate
from zsad.steps.item import ImageItem

LONG = 10.0
"""Seconds that nothing here takes."""


class Threads:
    """Threads that say where they are, and go on when told to."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(4)
        self.log: list[str] = []
        self.told: dict[str, threading.Event] = {}
        self.futures: list[Future[object]] = []

    def at(self, place: str) -> None:
        """Say that this thread is here, and wait until it is told to go on."""
        self.log.append(place)
        assert self.told.setdefault(place, threading.Event()).wait(LONG)

    def go_on(self, *places: str) -> None:
        for place in places:
            self.told.setdefault(place, threading.Event()).set()

    def start(self, work: Callable[[], object]) -> Future[object]:
        self.futures.append(self.pool.submit(work))
        return self.futures[-1]

    def until(self, *places: str) -> None:
        """Wait until threads are or were at all of these."""
        end = time.monotonic() + LONG
        while not set(places) <= set(self.log):
            assert time.monotonic() < end, (places, self.log)
            time.sleep(0.005)

    def stays_away(self, place: str) -> None:
        time.sleep(0.1)
        assert place not in self.log


@pytest.fixture
def threads():
    own = Threads()
    yield own
    for event in list(own.told.values()):
        event.set()
    for future in own.futures:
        future.result(LONG)
    own.pool.shutdown()


def working(threads: Threads, turns: Turns, step: str, name: str = "") -> Future[object]:
    """A thread that has its turn until it is told to go on."""

    def work() -> None:
        with turns.of(step):
            threads.at(step + name)

    return threads.start(work)


def test_two_steps_work_at_the_same_time_and_no_step_twice(threads):
    turns = Turns()
    working(threads, turns, "sam")
    working(threads, turns, "clip")
    threads.until("sam", "clip")
    working(threads, turns, "sam", " again")
    threads.stays_away("sam again")
    threads.go_on("sam")
    threads.until("sam again")
    threads.go_on("clip", "sam again")


def test_one_step_at_a_time_where_that_is_asked_for(threads):
    turns = Turns(alone=True)
    working(threads, turns, "sam")
    threads.until("sam")
    working(threads, turns, "clip")
    threads.stays_away("clip")
    threads.go_on("sam")
    threads.until("clip")


def test_who_is_alone_waits_for_the_others_and_keeps_new_ones_away(threads):
    turns = Turns()
    working(threads, turns, "sam")
    threads.until("sam")

    def record() -> None:
        with turns.of("clip"):
            assert not is_alone()
            threads.at("clip")
            with alone():
                assert is_alone()
                with alone():
                    threads.at("recording")
                assert is_alone()
            assert not is_alone()
            threads.at("recorded")

    future = threads.start(record)
    threads.until("clip")
    threads.go_on("clip")
    threads.stays_away("recording")
    working(threads, turns, "isnet")
    threads.stays_away("isnet")
    threads.go_on("sam")
    threads.until("recording")
    threads.stays_away("isnet")
    threads.go_on("recording")
    threads.until("recorded", "isnet")
    threads.go_on("recorded", "isnet")
    future.result(LONG)


@contextmanager
def to_the_end() -> Iterator[None]:
    stay_alone()
    yield


@pytest.mark.parametrize("ways", [(alone, alone), (to_the_end, to_the_end), (alone, to_the_end)])
def test_two_that_want_to_be_alone_are_one_after_the_other(threads, ways):
    turns, both, at_work = Turns(), threading.Barrier(2), []

    def work(step: str, way: Callable[[], AbstractContextManager[None]]) -> None:
        with turns.of(step):
            both.wait(LONG)
            with way():
                at_work.append(step)
                time.sleep(0.05)
                assert at_work == [step]
                at_work.remove(step)

    for step, way in zip(("sam", "clip"), ways, strict=True):
        threads.start(lambda step=step, way=way: work(step, way))


def test_after_memory_ran_out_steps_are_alone_for_some_minutes(threads, monkeypatch):
    turns = Turns()
    with turns.of("sam"):
        stay_alone()
        assert is_alone()
    with turns.of("clip"):
        assert is_alone()
        working(threads, turns, "sam")
        threads.stays_away("sam")
    threads.go_on("sam")
    now = time.monotonic()
    monkeypatch.setattr(turns_module.time, "monotonic", lambda: now + turns_module._SHORT + 1)
    with turns.of("clip"):
        assert not is_alone()


def test_a_turn_ends_with_an_error_too():
    turns = Turns()
    for _ in range(2):
        with pytest.raises(ValueError, match="step"), turns.of("sam"), alone():
            raise ValueError("step")
    with turns.of("sam"):
        assert not is_alone()


def test_outside_of_all_turns_nobody_shares():
    with alone():
        assert is_alone()
    stay_alone()
    assert is_alone()


class Rests(Exception):
    pass


def test_one_that_is_interrupted_while_it_waits_leaves_nothing_behind(monkeypatch):
    turns = Turns()

    def interrupt(*_: object) -> None:
        raise Rests

    with pytest.raises(Rests), turns.of("sam"), monkeypatch.context() as patched:
        patched.setattr(turns._changed, "wait_for", interrupt)
        stay_alone()
    with turns.of("clip"), alone():
        assert is_alone()


def test_to_be_alone_to_the_end_outlasts_being_alone_for_a_while():
    turns = Turns()
    with turns.of("sam"):
        with alone():
            stay_alone()
        assert is_alone()
    with turns.of("clip"):
        assert not is_alone()


@pytest.mark.parametrize("images", [4, 1])
@pytest.mark.parametrize("records", [True, False])
def test_what_ran_out_of_memory_beside_another_step_is_tried_again_alone(threads, images, records):
    """Nothing is made smaller, and no image fails, while another step holds the memory, however long it does.

    Nor while that step waits until it is alone.
    """
    turns = Turns()
    asked: list[int] = []
    batches = DeviceBatches()
    items = [ImageItem(path="", class_name="nut") for _ in range(images)]

    def work(some: list[ImageItem]) -> None:
        def forward(window: slice) -> None:
            asked.append(window.stop - window.start)
            if "sam left" not in threads.log:
                raise torch.OutOfMemoryError("CUDA out of memory")

        batches.run(len(some), 4, forward)

    def sam() -> None:
        with turns.of("sam"):
            threads.at("sam")
            if records:
                with alone():
                    threads.at("recording")
            threads.at("recorded")
            threads.log.append("sam left")

    def clip() -> None:
        with turns.of("clip"):
            threads.at("clip")
            isolate("clip", items, work)

    threads.start(sam)
    future = threads.start(clip)
    threads.until("sam", "clip")
    # To rest, where it records.
    threads.go_on("sam")
    threads.stays_away("recording")
    threads.go_on("clip")
    threads.until("recording" if records else "recorded")
    threads.go_on("recording")
    threads.until("recorded")
    time.sleep(0.1)
    assert not future.done() and asked in ([], [images])
    threads.go_on("recorded")
    future.result(LONG)
    assert asked == 2 * [images] and all(item.failure is None for item in items)


def test_a_recording_is_alone(threads):
    turns = Turns()
    seen: list[bool] = []

    class Fake(CUDAGraphs):
        def _on_gpu(self, inputs):
            return True

        def _record(self, inputs):
            seen.append(is_alone())
            return lambda given: given[0]

    graphs = Fake(lambda x: x)
    working(threads, turns, "sam")
    threads.until("sam")

    def call() -> None:
        with turns.of("clip"):
            graphs(torch.ones(1))
            seen.append(is_alone())
            graphs(torch.ones(1))

    future = threads.start(call)
    time.sleep(0.1)
    assert not seen
    threads.go_on("sam")
    future.result(LONG)
    assert seen == [True, False]
