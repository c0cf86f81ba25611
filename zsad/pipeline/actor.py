"""The actor of a pool: one or more steps of the method as a table-to-table callable of Ray Data."""

from __future__ import annotations

import threading
from typing import Any

import cv2
import pyarrow as pa
import torch

from zsad.config import Config
from zsad.detector import METHOD, build_steps
from zsad.pipeline.adapter import items_from_table, scored_table, transport_table
from zsad.pipeline.pools import Pool
from zsad.steps.item import load


class StepActor:
    """Runs a pool's steps on each batch; the last pool emits scored rows, the others transport rows.

    Args:
        pool: which steps to run.
        config: the configuration.
        fingerprint: written into every row.
        progress: handle of the ``Progress`` actor, told by the last pool; None = tell no one.
    """

    def __init__(self, pool: Pool, config: Config, fingerprint: str, progress: Any = None) -> None:
        torch.set_num_threads(pool.torch_threads)
        cv2.setNumThreads(1)
        # Ray does not hide the GPUs from an actor that asked for none.
        device = config.runtime.device if pool.num_gpus else "cpu"
        on_device = config.model_copy(update={"runtime": config.runtime.model_copy(update={"device": device})})
        self.steps = build_steps(on_device, pool.steps)
        self.is_last = pool.steps[-1] == METHOD[-1].name
        self.config = config
        self.fingerprint = fingerprint
        self.progress = progress
        # Several batches may be decoded at once, but only one may fill the device.
        self.device = threading.Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Manifest or ``TRANSPORT_SCHEMA`` rows -> ``TRANSPORT_SCHEMA`` or ``SCORED_SCHEMA`` rows."""
        items = items_from_table(batch)
        load(items, self.config.images, self.config.runtime.threads)
        with self.device:
            for step in self.steps:
                step(items)
        if not self.is_last:
            return transport_table(items, batch)
        scored = scored_table(items, batch, self.fingerprint, self.config.aggregation.mask_background)
        if self.progress is not None:
            failed = sum(item.failure is not None for item in items)
            self.progress.add.remote(len(items), failed)
        return scored
