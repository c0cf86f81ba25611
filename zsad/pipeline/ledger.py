"""The one bookkeeping actor of a run: progress, and which images end the process that works on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from zsad.errors import ZsadError
from zsad.pipeline.progress import FailedImage, Snapshot

MAX_ATTEMPTS = 3
"""Processes that may end at an image before it is given up: one with its whole batch, two with it alone."""

_LOADING = "(loading)"
"""Used in place of a pool's name, with actors in place of images, to count processes that end while they load models."""

MAX_NODE_LOSSES = 5
"""At most this many processes that ended together with their node are not counted against an image. Spot machines come
and go, but an image that loses more nodes is suspected of taking them down."""


@dataclass
class Attempt:
    """What is known of an image that a process has begun and not finished.

    Attributes:
        ended: how many processes have begun it without finishing it; while one is at work, that one counts too.
            Those that went with their node are left out, ``MAX_NODE_LOSSES`` of them at most.
        stage: where the last one was; empty when it worked on a whole batch.
        reason: why the last one ended, where it said so.
        node: where the last one worked; node_losses: how many are left out of ``ended``.
    """

    ended: int = 0
    stage: str = ""
    reason: str = ""
    node: str = ""
    node_losses: int = 0


class Ledger:
    """A Ray actor that outlives the workers: they enter what they begin, and strike out what they finish.

    A process that dies leaves its images entered. Ray gives its batch to a new one, which finds them here and
    takes them one by one, so that the image that did it shows, and the others are scored. The last pool also
    reports what it has finished, which ``ProgressReporter`` reads.

    Args:
        given_up_limit: images that may be given up before the run stops, or 1 % of those done where that is more:
            beyond, the fault is not in the images.
    """

    def __init__(self, given_up_limit: int) -> None:
        self._attempts: dict[tuple[str, str], Attempt] = {}
        self._given_up: set[str] = set()
        self._loaded: set[str] = set()
        self._first_begun: float | None = None
        self._limit = given_up_limit
        self._done = 0
        self._failed = 0
        self._unseen: list[FailedImage] = []
        self._stage_ms: Counter[str] = Counter()
        self._failed_at: Counter[str] = Counter()
        self._remarked = 0
        self._remark: tuple[str, str] | None = None

    def begin(self, pool: str, ids: Sequence[str], node: str = "") -> list[Attempt]:
        """A process is about to work on these images.

        Returns:
            The earlier attempts at each image. Where no image has any that ended, a new attempt at all of them is
            recorded; else nothing is, and the caller goes on with ``begin_alone`` or ``give_up`` for each.
        """
        self._first_begun = self._first_begun or time.monotonic()
        found = [self._attempts.get((pool, image_id), Attempt()) for image_id in ids]
        self._discount_node_losses(found)
        if not any(attempt.ended for attempt in found):
            for image_id, attempt in zip(ids, found, strict=True):
                self._attempts[pool, image_id] = Attempt(ended=1, node=node, node_losses=attempt.node_losses)
        return found

    def begin_alone(self, pool: str, image_id: str, node: str = "") -> None:
        """A process begins this image, and no other beside it."""
        attempt = self._attempts.setdefault((pool, image_id), Attempt())
        attempt.ended += 1
        attempt.stage, attempt.reason, attempt.node = "", "", node

    def begin_loading(self, pool: str, actor: str, node: str = "") -> int:
        """A process of an actor begins to load its models; ``has_loaded`` when it has them.

        Returns:
            How many of this actor's processes ended before they had.

        Raises:
            ZsadError: ``MAX_ATTEMPTS`` of them did, and no actor of the pool has loaded its models so far.
        """
        attempt = self._attempts.setdefault((_LOADING, actor), Attempt())
        self._discount_node_losses([attempt])
        if attempt.ended >= MAX_ATTEMPTS and pool not in self._loaded:
            raise ZsadError(
                f"{attempt.ended} processes of pool {pool!r} ended while they loaded their models (a crash, or out of "
                "memory). Look at the logs of Ray's workers; a lower runtime.<pool>.size, smaller models or nodes with more "
                "memory lower the need."
            )
        attempt.ended += 1
        attempt.node = node
        return attempt.ended - 1

    def has_loaded(self, pool: str, actor: str) -> None:
        """An actor has its models."""
        self._loaded.add(pool)
        self.finish(_LOADING, [actor])

    @staticmethod
    def _discount_node_losses(attempts: Sequence[Attempt]) -> None:
        """Take back the attempts whose node is gone: the loss of the node, not the image, ended the process."""
        named = {attempt.node for attempt in attempts if attempt.ended} - {""}
        gone = {node["NodeID"] for node in ray.nodes() if not node["Alive"]} & named if named else set()
        for attempt in attempts:
            if attempt.ended and attempt.node in gone and attempt.node_losses < MAX_NODE_LOSSES:
                attempt.ended -= 1
                attempt.node_losses += 1
                attempt.node = ""

    def enter_stage(self, pool: str, image_id: str, stage: str) -> None:
        """The process that works on this image alone has come to ``stage``."""
        self._attempts.setdefault((pool, image_id), Attempt(ended=1)).stage = stage

    def record_reason(self, pool: str, ids: Sequence[str], reason: str) -> None:
        """The process that works on these images ends itself, for this reason."""
        for image_id in ids:
            if (pool, image_id) in self._attempts:
                self._attempts[pool, image_id].reason = reason

    def finish(self, pool: str, ids: Sequence[str]) -> None:
        """These images are done with."""
        for image_id in ids:
            self._attempts.pop((pool, image_id), None)

    def give_up(self, image_id: str) -> None:
        """This image gets no further attempt.

        Raises:
            ZsadError: too many images of this run were given up.
        """
        # A batch whose other images end processes too is gone through again, this image with it.
        self._given_up.add(image_id)
        if len(self._given_up) > max(self._limit, self._done // 100):
            raise ZsadError(
                f"{len(self._given_up)} images, the last of them {image_id!r}, ended every process that worked on them. "
                "So many point to the machine, its memory or its GPU driver rather than to the images. Look at the "
                "logs of Ray's workers; runtime.batch_size, runtime.device_batch and runtime.<pool>.size lower the "
                "need for memory."
            )

    def add(
        self,
        done: int,
        failures: Sequence[FailedImage],
        stage_ms: Mapping[str, float],
        remarks: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Count ``done`` finished images with their milliseconds per stage, those that failed, and remarks on others."""
        self._done += done
        self._failed += len(failures)
        self._unseen += failures
        self._stage_ms.update(stage_ms)
        self._failed_at.update(stage for _, stage, _, _ in failures)
        self._remarked += len(remarks)
        self._remark = self._remark or next(iter(remarks), None)

    def read(self, seen: int) -> Snapshot:
        """The state; the first ``seen`` failures have been shown and are let go."""
        # A ledger that was lost and began anew has counted less than its reader has seen.
        del self._unseen[: max(0, seen - (self._failed - len(self._unseen))) if seen <= self._failed else 0]
        unseen, stage_ms, failed_at = tuple(self._unseen), dict(self._stage_ms), dict(self._failed_at)
        seconds = time.monotonic() - self._first_begun if self._first_begun is not None else 0.0
        return Snapshot(self._done, self._failed, unseen, stage_ms, self._remarked, self._remark, failed_at, seconds)
