"""Connecting to Ray, and what is checked on the cluster before any actor starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from zsad.config import Config
from zsad.errors import UsageError, ZsadError
from zsad.filesystem import is_local, redact


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray for the duration of the block; shut down at its end unless it was running before.

    Args:
        address: ``local`` starts Ray on this machine; ``auto`` or ``ray://host:port`` joins a cluster;
            None joins the cluster of ``$RAY_ADDRESS`` (as a submitted job does) or else starts one here.

    Raises:
        ZsadError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = address or ("auto" if os.environ.get("RAY_ADDRESS") else "local")
    own: dict[str, Any] = {}
    if address == "local":
        # The workers' own output stays in Ray's log files; what concerns an image is in its row.
        own = {"include_dashboard": False, "log_to_driver": False}
    try:
        ray.init(address=address, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ZsadError(
            f"Cannot reach Ray at {address!r}: {error}. Expected local, auto or ray://HOST:10001."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def check_nodes(root: str, output: str, config: Config) -> None:
    """Refuse local paths on a cluster of several nodes, which each have their own.

    Raises:
        UsageError: says which path and what to do.
    """
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    if nodes <= 1 or config.runtime.shared_filesystem:
        return
    for name, uri in (("--output", output), ("--root", root)):
        if is_local(uri):
            raise UsageError(
                f"{name} {redact(uri)!r} is a local path, but the cluster has {nodes} nodes. Expected an s3:// or "
                "gs:// URI; if every node sees the same files there, say --set runtime.shared_filesystem=true."
            )


def cluster_resources() -> Mapping[str, float]:
    """``ray.cluster_resources()``: CPU, GPU, memory (bytes), ..."""
    resources: Mapping[str, float] = ray.cluster_resources()
    return resources
