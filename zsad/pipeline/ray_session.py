"""Connecting to Ray, or starting one for this run alone."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

import psutil
import ray

from zsad.errors import UsageError, ZsadError
from zsad.filesystem import redact

_KEPT_MIB = 128 if platform.libc_ver() >= ("glibc", "2.36") else 32
"""Largest block, in MiB, that glibc keeps when it is freed. Versions before 2.36 ignore a setting above 32 MiB, and then
keep only small blocks."""
MALLOC_SETTINGS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(_KEPT_MIB << 20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""Settings of glibc's allocator (mallopt(3)) for actors; variables that the environment sets are left alone.

An actor keeps the memory that a batch frees, since the next batch needs as much. By default glibc returns it to the
system, which clears every page before it hands it out again. One arena, because Ray calls actors in threads, and an
arena per thread would keep too little."""
_SIGNALS = signal.SIGTERM, signal.SIGINT
_CONNECT_SECONDS = 10
_ADDRESS = re.compile(r"local|auto|(?!https?:)[a-z0-9+.-]+://\S+|([^\s:/]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")
_OWN_RAY = {
    # Ray's core prints a harmless but alarming error per actor pool into the terminal (ray#53727).
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Nobody looks at them, and to collect them is a fifth of what Ray's idle processes cost.
    "RAY_event_stats": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    **MALLOC_SETTINGS,
}
"""Environment of the processes of a Ray that is started for one run; variables that are set already stay."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray for the duration of the block; shut down at its end unless it was running before.

    Args:
        address: ``local`` starts Ray on this machine; ``auto`` or ``ray://host:port`` joins a cluster;
            None joins the cluster of ``$RAY_ADDRESS`` (as a submitted job does) or else starts one here.

    Raises:
        UsageError: an address of no such form.
        ZsadError: no cluster answers at the address.
    """
    given = address or os.environ.get("RAY_ADDRESS") or "local"
    if not _ADDRESS.fullmatch(given):
        source = "" if address else " of $RAY_ADDRESS"
        raise UsageError(f"Cannot read the address {redact(given)!r}{source}. Expected local, auto or HOST:PORT.")
    if ray.is_initialized():
        yield
        return
    address = address or ("auto" if os.environ.get("RAY_ADDRESS") else "local")
    # The workers' own output stays in Ray's log files; what concerns an image is in its row.
    starts = address == "local"
    own: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False} if starts else {}
    others = _raylets()
    try:
        _check_port(given)
        with (
            _signals(held=starts),
            _environment(_OWN_RAY if starts else {}),
            _without_remark() if starts else nullcontext(),
            _without_monitors() if starts else nullcontext(),
        ):
            ray.init(address=address, logging_level=logging.ERROR, **own)
    except (KeyboardInterrupt, SystemExit):
        # Of a signal that was held: Ray is complete by now, and can be ended.
        _shut_down(_raylets() - others if starts else ())
        raise
    except Exception as error:  # a start that takes too long is nothing more special in Ray
        if starts:
            _shut_down(_raylets() - others)
        raise ZsadError(
            f"Cannot reach Ray at {address!r}: {error}. Expected local, or auto on a node of a cluster."
        ) from None
    own_raylets = _raylets() - others if starts else ()
    try:
        yield
    finally:
        _shut_down(own_raylets)


def _raylets() -> Set[psutil.Process]:
    """The raylets among this process's children: those that start the workers."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name() == "raylet":
                found.add(child)
    return found


def _shut_down(raylets: Iterable[psutil.Process]) -> None:
    """Disconnect from Ray, and end what is left then of these and of the processes that they have now.

    Ray waits for no actor, which takes a second to end, or for ever where it hangs.
    """
    started: list[psutil.Process] = []
    for raylet in raylets:
        with suppress(psutil.Error):
            started += [raylet, *raylet.children(recursive=True)]
    try:
        ray.shutdown()
    finally:
        for process in started:
            with suppress(psutil.Error):
                process.kill()


def _check_port(address: str) -> None:
    """Raise OSError where nothing listens at ``HOST:PORT``; Ray would go on asking for longer than ten minutes."""
    host, separator, port = address.rpartition(":")
    if separator and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


@contextmanager
def _signals(held: bool) -> Iterator[None]:
    """Keep the Python handlers of Ctrl-C and SIGTERM, which ``ray.init`` would replace.

    Args:
        held: call them only at the end of the block, because a Ray that is stopped while it starts leaves processes
            behind. A signal that is sent again more than a second after the first is handled at once.
    """
    own: dict[int, Any] = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    if threading.current_thread() is not threading.main_thread():
        own.clear()
    came: dict[int, float] = {}
    set_handler = signal.signal

    def hold(number: int, frame: FrameType | None) -> None:
        first = came.setdefault(number, time.monotonic())
        # Some programs pass on a Ctrl-C that the terminal has sent to every process anyway.
        if time.monotonic() - first > 1:
            own[number](number, frame)

    def set_others(number: int, handler: Any) -> Any:
        # Ray's answer to SIGTERM has an exit code that nobody knows.
        return own[number] if number in own and number == signal.SIGTERM else set_handler(number, handler)

    try:
        if held:
            for number in own:
                signal.signal(number, hold)
        signal.signal = set_others  # type: ignore[assignment]
        yield
    finally:
        signal.signal = set_handler
        for number, handler in own.items():
            signal.signal(number, handler)
        for number in list(came)[:1]:
            signal.raise_signal(number)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """These variables, where they are not set, for the duration of the block: Ray's processes start with them."""
    missing = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextmanager
def _without_monitors() -> Iterator[None]:
    """Start Ray without the processes that scale a cluster and that forward the workers' output to the driver.

    Neither has anything to do here, and they take a second to start and to end. ``ray start`` has options for this, and
    ``ray.init`` none.
    """
    try:
        from ray._private.parameter import RayParams
    except ImportError:
        # Not a public interface: another version of Ray starts them.
        yield
        return
    initialise = RayParams.__init__

    def lean(own: RayParams, *arguments: Any, **named: Any) -> None:
        initialise(own, *arguments, **named)
        own.include_log_monitor = False  # type: ignore[assignment]
        own.no_monitor = True

    RayParams.__init__ = lean  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        RayParams.__init__ = initialise  # type: ignore[method-assign]


@contextmanager
def _without_remark() -> Iterator[None]:
    """Hold back what is written to stderr in the block, and write it at the end without Ray's note on its log level.

    Ray's core notes there that ``RAY_BACKEND_LOG_LEVEL`` is set, which ``_OWN_RAY`` does.
    """
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            with suppress(OSError):
                for line in held:
                    if b"RAY_BACKEND_LOG_LEVEL" not in line:
                        os.write(2, line)
