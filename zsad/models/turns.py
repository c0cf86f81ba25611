"""Whose turn it is on a device that the threads of a process work with."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
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
        # Of those at work, the ones that wait to be alone, and the one that is.
        self._resting: set[str] = set()
        self._alone: str | None = None

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
                self._alone = step

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
                self._alone = None
            self._changed.notify_all()

    def is_alone(self, step: str) -> bool:
        """Whether a step at work has the device to itself."""
        with self._changed:
            return self._alone == step

    def make_alone(self, step: str) -> None:
        """Wait until the others at work have ended their turns, or wait for this as well."""
        with self._changed:
            self._resting.add(step)
            # It no longer keeps another one that rests from going on.
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._alone is None and self._at_work <= self._resting)
            self._resting.remove(step)
            self._alone = step

    def share(self) -> None:
        """The step that is alone goes on with the others."""
        with self._changed:
            self._alone = None
            self._changed.notify_all()

    def note_short_memory(self) -> None:
        """Steps whose turns begin within the next ten minutes are alone."""
        with self._changed:
            self._short_until = time.monotonic() + _SHORT


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
    """After memory ran out: no other step works on the device until the end of this turn, nor beside later ones for a while."""
    turn = _TURN.get()
    if turn is None:
        return
    if not is_alone():
        turn.turns.make_alone(turn.step)
    turn.turns.note_short_memory()
