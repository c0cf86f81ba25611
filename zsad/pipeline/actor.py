"""The actor of a pool: one or more steps of the method as a table-to-table callable of Ray Data."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from zsad.config import Config
from zsad.detector import METHOD, Step, build_steps, use_large_pages
from zsad.errors import ImageError, ZsadError
from zsad.filesystem import redact, sleep_with_jitter
from zsad.models.graphs import out_of_memory
from zsad.models.turns import Turns
from zsad.pipeline.adapter import items_from_table, scored_table, transport_table
from zsad.pipeline.ledger import MAX_ATTEMPTS, Attempt
from zsad.pipeline.pools import Pool
from zsad.pipeline.progress import FailedImage
from zsad.steps.isolation import lost_device
from zsad.steps.item import ImageItem, fitting, load, read
from zsad.storage.schemas import STAGE_MS
from zsad.threads import file_threads

_MAX_WORDS = 200
_LOADING_PAUSE = 60.0
"""Seconds, with jitter, that a process waits before it loads its models if ``MAX_ATTEMPTS`` processes of the same actor
ended while they loaded theirs."""


class StepActor:
    """Runs a pool's steps on each batch; the last pool emits scored rows, the others transport rows.

    Args:
        pool: which steps to run.
        config: the configuration.
        fingerprint: written into every row.
        ledger: handle of the run's ``Ledger`` actor.
        weights: sha256 by family of the weights that are in the fingerprint; None = whatever this node has.

    Raises:
        ZsadError: this node has other weights, or process after process ended at loading them.
    """

    def __init__(
        self,
        pool: Pool,
        config: Config,
        fingerprint: str,
        ledger: Any,
        weights: Mapping[str, str] | None = None,
    ) -> None:
        use_large_pages()
        torch.set_num_threads(pool.torch_threads)
        cv2.setNumThreads(1)
        # Ray does not hide the GPUs from an actor that asked for none.
        device = config.runtime.device if pool.num_gpus else "cpu"
        on_device = config.model_copy(update={"runtime": config.runtime.model_copy(update={"device": device})})
        self.is_last = pool.steps[-1] == METHOD[-1].name
        self.config = config
        self.fingerprint = fingerprint
        self.pool = pool
        self.ledger = ledger
        self.node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        self.threads = file_threads(config)
        self.steps = self._load(on_device, weights)
        self.turns = Turns(alone=not pool.overlap)
        # A batch takes one place. An image that may have ended a process takes all of them: if this process ends too, it
        # interrupts no other image.
        self.places = threading.Semaphore(pool.calls)
        self.single = threading.Lock()

    def _load(self, config: Config, weights: Mapping[str, str] | None) -> Sequence[Step]:
        actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else ""
        ended = ray.get(self.ledger.begin_loading.remote(self.pool.name, actor, self.node))
        if ended >= MAX_ATTEMPTS:
            # Others of the pool are at work, and this one may be one too many for the memory.
            sleep_with_jitter(_LOADING_PAUSE)
        steps = self.build(config, self.pool.steps)
        for step in steps:
            # Steps of one's own may have no model.
            found = getattr(getattr(step, "model", None), "sha256", None)
            if weights and found is not None and found not in weights.values():
                expected = ", ".join(f"{family} {sha256}" for family, sha256 in weights.items())
                raise ZsadError(
                    f"The weights of the step {step.name} on node {platform.node()} have sha256 {found}, and those of the "
                    f"run are {expected}. Expected the same files on every node; replace those that differ."
                )
        self.ledger.has_loaded.remote(self.pool.name, actor)
        return steps

    def build(self, config: Config, names: Sequence[str]) -> Sequence[Step]:
        """The steps of these names, with their models loaded."""
        return build_steps(config, names)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Manifest or ``TRANSPORT_SCHEMA`` rows -> ``TRANSPORT_SCHEMA`` or ``SCORED_SCHEMA`` rows."""
        ids = batch["image_id"].to_pylist()
        # A batch that only waits here has not begun, and is not blamed if this process ends.
        with self.places:
            attempts: list[Attempt] = ray.get(self.ledger.begin.remote(self.pool.name, ids, self.node))
            suspect = any(attempt.ended for attempt in attempts)
            if not suspect:
                result = self._or_die(batch, _unrecorded)
        if suspect:
            # An earlier process ended while it worked on this batch. Working image by image shows which one is to blame.
            rows = [self._alone(batch.slice(index, 1), attempt) for index, attempt in enumerate(attempts)]
            result = pa.concat_tables(rows)
        self.ledger.finish.remote(self.pool.name, ids)
        if self.is_last:
            self.ledger.add.remote(result.num_rows, _failures(result), _stage_ms(result), _remarks(result))
        return result

    def _work(self, batch: pa.Table, entering: Callable[[str], object]) -> pa.Table:
        """``entering`` is told the name of every stage before it begins."""
        images, threads = self.config.images, self.threads
        items = items_from_table(batch)
        entering("load")
        read(items, images, threads)
        tables, done = [], 0
        # A batch of large images is decoded a few at a time, and no more of them at once than the largest one allowed.
        while done < batch.num_rows:
            some = items[: fitting(items, images.max_pixels)]
            del items[: len(some)]
            load(some, images, threads)
            for step in self.steps:
                with self.turns.of(step.name):
                    entering(step.name)
                    step(some)
            tables.append(self._table(some, batch.slice(done, len(some))))
            done += len(some)
        return pa.concat_tables(tables)

    def _table(self, items: list[ImageItem], batch: pa.Table) -> pa.Table:
        if self.is_last:
            return scored_table(items, batch, self.fingerprint, self.config.aggregation.mask_background)
        return transport_table(items, batch)

    def _alone(self, row: pa.Table, earlier: Attempt) -> pa.Table:
        """Work on one image while this process works on no other; an error row where it has had all its attempts."""
        (image_id,) = row["image_id"].to_pylist()
        pool = self.pool.name
        if earlier.ended >= MAX_ATTEMPTS:
            ray.get(self.ledger.give_up.remote(image_id))
            (item,) = items_from_table(row)
            words = f": {earlier.reason}" if earlier.reason else " (a crash, or out of memory)"
            error = ImageError("process_died", f"{earlier.ended} processes that worked on this image ended{words}")
            item.fail(earlier.stage or self.pool.steps[0], error)
            return self._table([item], row)
        with self.single, ExitStack() as places:
            for _ in range(self.pool.calls):
                places.enter_context(self.places)
            ray.get(self.ledger.begin_alone.remote(pool, image_id, self.node))
            result = self._or_die(row, lambda stage: ray.get(self.ledger.enter_stage.remote(pool, image_id, stage)))
        self.ledger.finish.remote(pool, [image_id])
        return result

    def _or_die(self, batch: pa.Table, entering: Callable[[str], object]) -> pa.Table:
        """``_work``; after an error that only a new process can recover from, end this one, and Ray starts another."""
        try:
            return self._work(batch, entering)
        except Exception as error:
            if not (lost_device(error) or out_of_memory(error)):
                raise
            words = redact(str(error)).strip().splitlines() or [type(error).__name__]
            ids = batch["image_id"].to_pylist()
            ray.get(self.ledger.record_reason.remote(self.pool.name, ids, words[0][:_MAX_WORDS]))
            os._exit(1)


def _unrecorded(stage: str) -> None:
    """Of a whole batch the ledger does not record the stage."""


def _failures(scored: pa.Table) -> list[FailedImage]:
    failed = scored.filter(pc.equal(scored["status"], "error"))
    columns = [failed[name].to_pylist() for name in ("image_id", "error_stage", "error_type", "error_message")]
    return list(zip(*columns, strict=True))


def _remarks(scored: pa.Table) -> list[tuple[str, str]]:
    """image_id and remark of the images that have a score all the same."""
    remarked = scored.filter(pc.and_(pc.equal(scored["status"], "ok"), pc.is_valid(scored["error_message"])))
    return list(zip(remarked["image_id"].to_pylist(), remarked["error_message"].to_pylist(), strict=True))


def _stage_ms(scored: pa.Table) -> dict[str, float]:
    """Milliseconds per stage, summed over the images."""
    stages = {field.name: pc.struct_field(scored["stage_ms"], field.name) for field in STAGE_MS}
    return {stage: pc.sum(column).as_py() or 0.0 for stage, column in stages.items()}
