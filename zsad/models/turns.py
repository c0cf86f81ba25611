"""Whose turn it is on a device that the threads of a process work with."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_SHORT = 600.0
"""Seconds for which memory is taken to be short after it ran out."""


class Turns:
    """Each step works on one batch at a time, while the other steps work on other batches.

    So a GPU has something to do while one of them waits for the host, and the host while one of them waits for the GPU.
    A step that asks for it has the device to itself.

    Args:
        alone: only one step works at a time.
    """

    def __init__(self, alone: bool = False) -> None:
        self._always_alone = alone
        self._short_until = -math.inf
        self._changed = threading.Condition()
        self._at_work: set[str] = set()
        # Of those at work, the ones that wait to be alone, and of these the ones that have run out of memory.
        self._resting: set[str] = set()
        self._exhausted: set[str] = set()
        # The one that is alone, and whether it is until the end of its turn.
        self._alone: str | None = None
        self._stays_alone = False

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Wait for the turn of the step, and have it until the end of the block."""
        self._begin(step)
        token = _TURN.set(_Turn(self, step))
        try:
            yield
        finally:
            _TURN.reset(token)
            self._end(step)

    def _begin(self, step: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._may_begin(step))
            self._at_work.add(step)
            if self._one_at_a_time():
                self._alone, self._stays_alone = step, True

    def _may_begin(self, step: str) -> bool:
        if self._alone is not None or self._resting:
            return False
        return not self._at_work if self._one_at_a_time() else step not in self._at_work

    def _one_at_a_time(self) -> bool:
        return self._always_alone or time.monotonic() < self._short_until

    def _end(self, step: str) -> None:
        with self._changed:
            self._at_work.remove(step)
            if self._alone == step:
                self._alone, self._stays_alone = None, False
            self._changed.notify_all()

    def is_alone(self, step: str) -> bool:
        """Whether a step at work has the device to itself."""
        with self._changed:
            return self._alone == step

    def make_alone(self, step: str) -> None:
        """Wait until the other steps at work have ended their turns or wait to be alone, too."""
        with self._changed:
            self._rest(step, lambda: self._at_work <= self._resting)

    def make_alone_to_the_end(self, step: str) -> None:
        """Wait until the other steps at work have ended their turns, but for those that wait for the same.

        Steps whose turns begin within the next ten minutes are alone.
        """
        with self._changed:
            if self._alone != step:
                self._exhausted.add(step)
                try:
                    # One that only waits to be alone for a while keeps its memory meanwhile.
                    self._rest(step, lambda: self._at_work <= self._exhausted)
                finally:
                    self._exhausted.remove(step)
                self._short_until = time.monotonic() + _SHORT
            self._stays_alone = True

    def _rest(self, step: str, others_are_done: Callable[[], bool]) -> None:
        self._resting.add(step)
        # The step no longer keeps another one that rests from going on.
        self._changed.notify_all()
        try:
            self._changed.wait_for(lambda: self._alone is None and others_are_done())
            self._alone = step
        finally:
            self._resting.remove(step)
            self._changed.notify_all()

    def share(self) -> None:
        """The step that is alone goes on with the others, unless it is to be alone to the end."""
        with self._changed:
            if not self._stays_alone:
                self._alone = None
                self._changed.notify_all()


@dataclass(frozen=True)
class _Turn:
    turns: Turns
    step: str


_TURN: ContextVar[_Turn | None] = ContextVar("turn", default=None)
"""Of this thread; None outside of all turns, where nobody shares the device."""


def is_alone() -> bool:
    """Whether no other step works on the device while this thread does."""
    turn = _TURN.get()
    return turn is None or turn.turns.is_alone(turn.step)


@contextmanager
def alone() -> Iterator[None]:
    """No other step works on the device during the block."""
    turn = _TURN.get()
    if turn is None or is_alone():
        yield
        return
    turn.turns.make_alone(turn.step)
    try:
        yield
    finally:
        turn.turns.share()


def stay_alone() -> None:
    """After memory ran out: no other step works on the device until the end of this turn.

    If others did until now, steps whose turns begin within ten minutes are alone as well.
    """
    turn = _TURN.get()
    if turn is not None:
        turn.turns.make_alone_to_the_end(turn.step)
