"""Which actor pools run the steps, and whether the cluster can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zsad.config import Config, PoolConfig
from zsad.detector import METHOD
from zsad.errors import UsageError
from zsad.pipeline.cost import StageCosts
from zsad.text import count

_ACTORS_PER_GPU = 2
"""Of topology ``pools``. One actor of one step leaves the GPU idle while that step waits for the host."""
_LEAST_ACTORS = 8
"""Of topology ``pools``. On few GPUs more actors share a GPU, until there are this many in all: four pools of one actor
each could not differ in size as the costs of their steps do."""
_UNKNOWN_MS = 1000.0
"""Per image and actor, where no costs are known."""


@dataclass(frozen=True)
class Pool:
    """One pool of equal actors.

    Attributes:
        name: ``fused`` or the step's name.
        steps: names of the steps that each actor runs, in order.
        size: number of actors.
        num_gpus: share of a GPU per actor; 0 = CPU only.
        torch_threads: threads that torch may use per actor on the CPU: its share of all CPUs.
        calls: batches that an actor has at once; while one is in a step, others are decoded and written.
        overlap: whether several of them may be in steps, each in another one.
    """

    name: str
    steps: tuple[str, ...]
    size: int
    num_gpus: float
    torch_threads: int
    calls: int
    overlap: bool = False


def plan_pools(
    config: Config, resources: Mapping[str, float], actor_gib: float, costs: StageCosts | None = None
) -> list[Pool]:
    """The pools of a run, from the configuration, the resources of the cluster and the cost of each step.

    ``fused``: all models in each actor, one actor per GPU, or as many as CPUs and memory hold; where a size is configured
    that is larger, they share the GPUs. ``pools``:
    one pool per foundation model; every actor has the same share of a GPU, and the sizes are in proportion
    to the steps' milliseconds per image, so that all actors, and with them all GPUs, are equally busy however
    Ray places them. ``auto`` is ``pools`` on two GPUs or more.

    Args:
        config: the configuration.
        resources: ``ray.cluster_resources()``.
        actor_gib: estimated memory of an actor with all models, in GiB.
        costs: of the steps; None = taken to be equal.

    Raises:
        UsageError: the pools need more than the cluster has; says the numbers.
    """
    gpus = 0 if config.runtime.device == "cpu" else int(resources.get("GPU", 0))
    if config.runtime.device == "cuda" and not gpus:
        raise UsageError("runtime.device is cuda, but the cluster has no GPU. Expected a GPU, or device=cpu or auto.")
    topology = config.runtime.topology
    if topology == "auto":
        topology = "pools" if gpus > 1 else "fused"
    steps = tuple(step.name for step in METHOD)
    cpus = max(1, int(resources.get("CPU", 1)))
    if topology == "fused":
        memory_gib = resources.get("memory", 0) / 1024**3
        by_memory = int(memory_gib // actor_gib) if memory_gib else 1
        members = {"fused": steps}
        sizes = {"fused": gpus or max(1, min(cpus, by_memory))}
        per_gpu = math.ceil((config.runtime.fused.size or gpus) / gpus) if gpus else 0
    else:
        members = {name: (name,) for name in steps}
        per_gpu = min(len(steps), max(_ACTORS_PER_GPU, math.ceil(_LEAST_ACTORS / gpus))) if gpus else 0
        actors = per_gpu * gpus or max(len(steps), cpus)
        sizes = proportional(actors, {name: costs.ms.get(name, 0.0) if costs else 1.0 for name in steps})
    # Rounded down, or three thirds would be more than one GPU.
    share = math.floor(10_000 / per_gpu) / 10_000 if gpus else 0.0
    given: dict[str, PoolConfig] = {name: getattr(config.runtime, name) for name in members}
    sizes = {name: given[name].size or sizes[name] for name in members}
    threads = max(1, cpus // sum(sizes.values()))
    pools = []
    for name, own in members.items():
        num_gpus = share if (chosen := given[name].num_gpus) is None else chosen
        # A step that is being compiled waits for the whole device again and again.
        overlap = num_gpus > 0 and len(own) > 1 and not config.runtime.compile
        pools.append(Pool(name, own, sizes[name], num_gpus, threads, 3 if num_gpus else 1, overlap))
    _check(pools, resources, config.runtime.memory_gib)
    return pools


def proportional(total: int, costs: Mapping[str, float]) -> dict[str, int]:
    """``total`` actors shared out in proportion to ``costs``, at least one each.

    >>> proportional(8, {"a": 1, "b": 6, "c": 1})
    {'a': 1, 'b': 6, 'c': 1}
    """
    sizes = dict.fromkeys(costs, 1)
    for _ in range(total - len(costs)):
        # The next actor goes to the step whose actors have most to do.
        slowest = max(costs, key=lambda name: costs[name] / sizes[name])
        sizes[slowest] += 1
    return sizes


def images_within(seconds: float, pools: Sequence[Pool], costs: StageCosts | None) -> tuple[int, int]:
    """How many images the slowest pool finishes in so long: one actor of it, and all of them; at least one.

    >>> images_within(60, [Pool("fused", ("a", "b"), 3, 0, 1, 1)], StageCosts({"a": 5000, "b": 7000}, "", "cpu"))
    (5, 15)
    """
    ms = [sum(costs.ms.get(stage, 0.0) for stage in ("load", *pool.steps)) if costs else _UNKNOWN_MS for pool in pools]
    slowest_actor = max(*ms, 1e-3)
    slowest_pool = max(*(each / pool.size for each, pool in zip(ms, pools, strict=True)), 1e-3)
    return max(1, int(1000 * seconds / slowest_actor)), max(1, int(1000 * seconds / slowest_pool))


def describe(pools: Sequence[Pool]) -> str:
    """One line for the log, e.g. ``fused: 2 actors (CPU)``."""
    return ", ".join(
        f"{pool.name}: {count(pool.size, 'actor')} ({f'{pool.num_gpus:g} GPU each' if pool.num_gpus else 'CPU'})"
        for pool in pools
    )


def _check(pools: Sequence[Pool], resources: Mapping[str, float], memory_gib: float | None) -> None:
    shares = sorted((pool.num_gpus for pool in pools for _ in range(pool.size) if pool.num_gpus), reverse=True)
    available = resources.get("GPU", 0.0)
    if not _fit(shares, int(available)):
        parts = ", ".join(f"{pool.name} {pool.size} x {pool.num_gpus:g}" for pool in pools if pool.num_gpus)
        raise UsageError(
            f"The actor pools need {sum(shares):g} GPUs ({parts}), which do not fit on the cluster's {available:g}. "
            "Lower runtime.<pool>.size or runtime.<pool>.num_gpus, set runtime.device=cpu, or add GPUs."
        )
    needed = sum(pool.size for pool in pools) * (memory_gib or 0)
    available_gib = resources.get("memory", 0.0) / 1024**3
    if needed > available_gib:
        raise UsageError(
            f"The actor pools need {needed:.1f} GiB of memory ({memory_gib:g} GiB for each of "
            f"{sum(pool.size for pool in pools)} actors); the cluster has {available_gib:.1f} GiB. "
            "Lower runtime.memory_gib or runtime.<pool>.size."
        )
    if resources.get("CPU", 0.0) < 1:
        raise UsageError("The cluster has no CPU for reading and writing; expected at least 1. Start Ray with CPUs.")


def _fit(shares: Sequence[float], gpus: int) -> bool:
    """Whether actors with these shares of a GPU, largest first, fit: a fraction never spans two GPUs."""
    free = [1.0] * gpus
    for share in shares:
        whole = int(share) if share >= 1 else 0
        idle = [index for index, room in enumerate(free) if room == 1.0]
        if whole and len(idle) >= whole:
            for index in idle[:whole]:
                free[index] = 0.0
            continue
        target = next((index for index, room in enumerate(free) if room + 1e-6 >= share), None)
        if whole or target is None:
            return False
        free[target] -= share
    return True
