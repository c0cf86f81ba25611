"""``zsad`` with a slower or faulty first step, so that a test can hit a run in the middle.

As a script it takes the arguments of ``zsad`` and the settings of ``Faults`` as JSON in ``$FAULTS``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Faults:
    """What happens to an image before the first step.

    Attributes:
        sleep: seconds it takes.
        kill: file names at which the process kills itself.
        lose: file names at which the process loses its GPU.
        begun: a file that gets the name of every image that is begun.
        kill_loading: whether the process kills itself instead of loading its models.
    """

    sleep: float = 0.0
    kill: tuple[str, ...] = ()
    lose: tuple[str, ...] = ()
    begun: str | None = None
    kill_loading: bool = False


def faulty_actor(faults):
    """A ``StepActor`` with these faults; local, so that Ray takes it to the workers by value."""
    from zsad.pipeline.actor import StepActor

    class FirstStep:
        name = "saliency"

        def __call__(self, items):
            for item in items:
                name = Path(item.path).name
                if faults.begun is not None:
                    with open(faults.begun, "a") as file:
                        file.write(f"{name}\n")
                time.sleep(faults.sleep)
                if name in faults.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                if name in faults.lose:
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")

    class FaultyActor(StepActor):
        def build(self, config, names):
            if faults.kill_loading:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().build(config, names)

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.steps = (FirstStep(), *self.steps)

    return FaultyActor


def full_disk_sink(parts, max_bytes):
    """A ``PartSink`` that finds the disk full after some parts: the kernel then refuses larger files."""
    from zsad.pipeline.sink import PartSink

    class FullDisk(PartSink):
        def write(self, blocks, ctx):
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            if ctx.task_idx >= parts:
                resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
            try:
                return super().write(blocks, ctx)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return FullDisk


def faulty_graph(faults, ballast=0):
    """``run_graph`` with these faults, while objects of others (megabytes) fill Ray's object store."""
    import numpy as np
    import ray
    from ray._private.internal_api import memory_summary

    from zsad.pipeline.graph import run_graph

    def run(*args, **options):
        held = [ray.put(np.ones(10_000_000, np.uint8)) for _ in range(ballast // 10)]
        figures = run_graph(*args, actor=faulty_actor(faults), **options)
        if held:
            print([line for line in memory_summary(stats_only=True).splitlines() if "Spilled" in line], flush=True)
        return figures

    return run


if __name__ == "__main__":
    import zsad.pipeline.execute
    from zsad.cli import main

    given = json.loads(os.environ["FAULTS"])
    megabytes = given.pop("ballast", 0)
    zsad.pipeline.execute.run_graph = faulty_graph(Faults(**given), megabytes)
    main(sys.argv[1:])
