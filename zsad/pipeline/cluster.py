"""What is checked on the cluster before any actor starts."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
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


def wait_for_gpus(root: str, output: str, config: Config, stream: TextIO) -> None:
    """Ask an autoscaled cluster for ``runtime.gpus`` GPUs, and wait until it has them and they are free.

    Raises:
        UsageError: a local path, which the nodes to come cannot read.
        ZsadError: they were not there, or not free, within ``runtime.no_progress_seconds``.
    """
    gpus, seconds = config.runtime.gpus, config.runtime.no_progress_seconds
    if gpus is None or ray.available_resources().get("GPU", 0) >= gpus:
        return
    if ray.cluster_resources().get("GPU", 0) < gpus:
        _refuse_local(root, output, config)
    print(f"Waiting for {gpus} GPUs; the cluster has {_gpus()}.", file=stream, flush=True)
    # Unlike a request to the autoscaler, a placement group goes when this process is killed: no node stays for nothing.
    group = placement_group([{"GPU": 1}] * gpus)
    try:
        if not group.wait(seconds):
            raise ZsadError(
                f"Asked for {gpus} GPUs, and {seconds:g} s later the cluster has "
                f"{_gpus()}. Nothing was written. Lower runtime.gpus, raise the "
                "cluster's limit or runtime.no_progress_seconds, or wait for capacity and run the same command again."
            )
    finally:
        remove_placement_group(group)


def _gpus() -> str:
    """How many GPUs the cluster has, and how many of them are free."""
    total, free = ray.cluster_resources().get("GPU", 0), ray.available_resources().get("GPU", 0)
    return f"{total:g}" if free == total else f"{total:g}, of which {free:g} are free"


def no_progress(seconds: float) -> ZsadError:
    """The error of a run in which no batch was finished for so long."""
    cpus = f"{ray.cluster_resources().get('CPU', 0):g} CPUs and {_gpus()} GPUs"
    return ZsadError(
        f"No batch was finished within {seconds:g} s (runtime.no_progress_seconds). The cluster has {cpus}. Did another job "
        "take them, were nodes lost, or is a batch slower than that?"
    )


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


def placement(paths: Sequence[str], shared: bool) -> dict[str, Any]:
    """Ray options of the tasks and actors that read and write ``paths``: this node where one of them is local to it.

    Nodes that join later would read and write files of their own.

    Args:
        paths: folders and URIs; shared: whether every node sees the same files there.
    """
    return {"scheduling_strategy": on_this_node()} if not shared and any(map(is_local, paths)) else {}


def on_this_node(soft: bool = False) -> NodeAffinitySchedulingStrategy:
    """The node that this process is connected to; ``soft``: another one where this one is full or gone."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=soft)


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
