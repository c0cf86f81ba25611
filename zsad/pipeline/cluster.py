"""Connecting to Ray, and what is checked on the cluster before any actor starts."""

from __future__ import annotations

import logging
import os
import platform
import re
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any, TextIO

import ray
from pyarrow.fs import FileType
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zsad.config import Config
from zsad.errors import UsageError, ZsadError
from zsad.filesystem import is_local, redact, resolve

_PROBE_TRIES = 5
_PROBE_SECONDS = 60
_KEPT_MIB = 128 if platform.libc_ver() >= ("glibc", "2.36") else 32
"""Of one piece of memory that is kept; glibc of old ignores a setting of more than 32 MiB, and then keeps hardly any."""
KEEPS_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(_KEPT_MIB << 20),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""Of mallopt(3), where the environment does not say otherwise: an actor keeps what a batch frees, for the next one needs
as much. Else glibc gives it back, and the system clears every page again. Ray calls actors in threads, whose own arenas
would keep too little."""
_SIGNALS = signal.SIGTERM, signal.SIGINT
_KNOCK_SECONDS = 10
_ADDRESS = re.compile(r"local|auto|(?!https?:)[a-z0-9+.-]+://\S+|([^\s:/]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")
_OWN_RAY = {
    # Ray's core prints a harmless but alarming error per actor pool into the terminal (ray#53727).
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Nobody looks at them, and to collect them is a fifth of what Ray's idle processes cost.
    "RAY_event_stats": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    **KEEPS_MEMORY,
}
"""Settings of Ray's processes where it is started for one run; the environment goes before."""


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
    try:
        _knock(given)
        with (
            _signals(held=starts),
            _environment(_OWN_RAY if starts else {}),
            _without_remark() if starts else nullcontext(),
        ):
            ray.init(address=address, logging_level=logging.ERROR, **own)
    except (KeyboardInterrupt, SystemExit):
        # Of a signal that was held: Ray is complete by now, and can be ended.
        ray.shutdown()
        raise
    except Exception as error:  # a start that takes too long is nothing more special in Ray
        raise ZsadError(
            f"Cannot reach Ray at {address!r}: {error}. Expected local, or auto on a node of a cluster."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at ``HOST:PORT``; Ray would go on asking for longer than ten minutes."""
    host, separator, port = address.rpartition(":")
    if separator and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()


@contextmanager
def _signals(held: bool) -> Iterator[None]:
    """Keep the handlers of Ctrl-C and SIGTERM that Python knows; ``held``: they are called at the end of the block only.

    A Ray that is stopped while it starts leaves processes behind. Who cannot wait sends the signal again after a second.
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
def _without_remark() -> Iterator[None]:
    """Hold back what Ray's core writes to the terminal meanwhile, and write it at the end but for a remark on the above."""
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


def wait_for_gpus(root: str, output: str, config: Config, stream: TextIO) -> None:
    """Ask an autoscaled cluster for ``runtime.gpus`` GPUs, and wait until it has them.

    Raises:
        UsageError: a local path, which the nodes to come cannot read.
        ZsadError: they were not there, or not free, within ``runtime.no_progress_seconds``.
    """
    gpus, seconds = config.runtime.gpus, config.runtime.no_progress_seconds
    if gpus is None or ray.cluster_resources().get("GPU", 0) >= gpus:
        return
    _refuse_local(root, output, config)
    print(f"Waiting for {gpus} GPUs.", file=stream, flush=True)
    # Unlike a request to the autoscaler, a placement group goes when this process is killed: no node stays for nothing.
    group = placement_group([{"GPU": 1}] * gpus)
    try:
        if not group.wait(seconds):
            raise ZsadError(
                f"Asked for {gpus} GPUs, and {seconds:g} s later the cluster has "
                f"{ray.cluster_resources().get('GPU', 0):g}. Nothing was written. Lower runtime.gpus, raise the "
                "cluster's limit or runtime.no_progress_seconds, or wait for capacity and run the same command again."
            )
    finally:
        remove_placement_group(group)


def check_nodes(root: str, output: str, config: Config) -> None:
    """On a cluster of several nodes refuse local paths and try the output on each.

    Raises:
        UsageError: says which path, or which output, and what to do; or this process is on no node.
    """
    if _is_client():
        raise UsageError(
            "This process is outside the cluster (ray://), from where Ray Data cannot run. Submit the run instead ('ray "
            "job submit', see the README), or start it on a node with --address auto."
        )
    nodes = _alive()
    if len(nodes) <= 1:
        return
    _refuse_local(root, output, config)
    # One node after the other, since on a shared file system the last one tidies up.
    for node in nodes:
        _try_on(node, output)


def only_node(root: str, output: str, config: Config) -> str | None:
    """ID of this node where a path is local to it: nodes that join later would read and write files of their own."""
    local = (is_local(root) or is_local(output)) and not config.runtime.shared_filesystem
    return ray.get_runtime_context().get_node_id() if local else None


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Where files of this machine are read and written."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def check_readable(paths: Sequence[str], shared: bool) -> None:
    """As ``check_nodes``, for a job that only reads the files of a run.

    Args:
        paths: the run's folder, and those its rows point to; shared: whether every node sees the same files there.

    Raises:
        UsageError: a local path that other machines cannot read.
    """
    machines = "machines of its own (ray://)" if _is_client() else "several nodes"
    for path in paths:
        if is_local(path) and not shared and (_is_client() or len(_alive()) > 1):
            raise UsageError(
                f"{redact(path)!r} is a local path, but the cluster has {machines}. Expected an s3:// or gs:// URI; "
                "if this machine and every node see the same files there, say --shared-filesystem, else read the run "
                "here with --address local."
            )


def _alive() -> list[str]:
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def _try_on(node: str, output: str) -> None:
    """``probe`` there; a node that is gone by now has nothing to write."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(probe)
    pinned = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
    for tries_left in reversed(range(_PROBE_TRIES)):
        try:
            ray.get(pinned.remote(output), timeout=_PROBE_SECONDS)
            return
        except ray.exceptions.RayTaskError as error:
            raise UsageError(f"Not every node can use the output: {error.cause}") from None
        except ray.exceptions.RayError as error:
            if node not in _alive():
                return
            if isinstance(error, ray.exceptions.GetTimeoutError):
                raise UsageError(
                    f"A node could not write to {redact(output)!r} within {_PROBE_SECONDS} s. Check the nodes' network "
                    "and credentials."
                ) from None
            if not tries_left:
                raise ZsadError(f"A node could not try the output: {redact(str(error))[:300]}") from None
        time.sleep(1)


def _is_client() -> bool:
    """Whether this process is on no node of the cluster: it has connected to ``ray://``."""
    return bool(ray.util.client.ray.is_connected())


def _refuse_local(root: str, output: str, config: Config) -> None:
    for name, uri in (("--output", output), ("--root", root)):
        if is_local(uri) and not config.runtime.shared_filesystem:
            raise UsageError(
                f"{name} {redact(uri)!r} is a local path, but the cluster has several nodes. Expected an s3:// or gs:// "
                "URI; if this machine and every node see the same files there, say "
                "--set runtime.shared_filesystem=true."
            )


def probe(output: str) -> None:
    """Write, read and delete a small hidden file in ``output``; leaves no new folder behind.

    Raises:
        UsageError: this process cannot do that.
    """
    filesystem, folder = resolve(output)
    is_new = filesystem.get_file_info(folder).type == FileType.NotFound
    path = f"{folder}/.probe-{secrets.token_hex(8)}"
    try:
        if is_local(output):
            # An object store has no folders, and to make their markers takes rights that a run needs for nothing else.
            filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(path) as sink:
            sink.write(b"probe")
        with filesystem.open_input_stream(path) as source:
            same = source.read() == b"probe"
        filesystem.delete_file(path)
        if is_new and is_local(output):
            # Only when still empty: another run may have begun to write here.
            with suppress(OSError):
                os.rmdir(folder)
    except OSError as error:
        raise UsageError(
            f"Cannot write to the output {redact(output)!r}: {redact(str(error))}. Expected a folder or bucket that "
            "this user may write to."
        ) from None
    if not same:
        raise UsageError(f"The output {redact(output)!r} does not give back what was written to it.")


def cluster_resources() -> Mapping[str, float]:
    """``ray.cluster_resources()``: CPU, GPU, memory (bytes), ..."""
    resources: Mapping[str, float] = ray.cluster_resources()
    return resources
