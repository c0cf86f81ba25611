"""The Ray Data graph, top to bottom: work list -> actor pools -> committed parts."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from zsad.config import Config
from zsad.pipeline.actor import StepActor
from zsad.pipeline.pools import Pool
from zsad.pipeline.sink import PartSink

_ROWS_PER_SOURCE_BLOCK = 100_000


def run_graph(
    work: pa.Table,
    pools: Sequence[Pool],
    config: Config,
    fingerprint: str,
    sink: PartSink,
    ledger: Any,
    actor: type[StepActor] = StepActor,
    place: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score the images of a work list and commit them as parts; returns when all are committed.

    Args:
        work: manifest rows, one per image to score.
        pools: the actor pools, in order of the steps.
        config: the configuration.
        fingerprint: written into every row.
        sink: writes the parts.
        ledger: handle of the ``Ledger`` actor.
        actor: what runs the steps of a pool.
        place: ``zsad.pipeline.cluster.placement`` of what is read and written; None = any node.
        environment: variables that the actors' processes start with; None = those of Ray.
        weights: sha256 by family, which every actor must have loaded; None = whatever it finds.

    Returns:
        Ray Data's figures of the run per operator, and the bytes that it spilled.
    """
    configure(DataContext.get_current(), config)
    # A small collection is cut so that every actor gets some of it.
    actors = max(pool.size for pool in pools)
    rows = min(config.runtime.batch_size, max(1, math.ceil(work.num_rows / (2 * actors))))
    starts = range(0, work.num_rows, _ROWS_PER_SOURCE_BLOCK)
    graph: ray.data.Dataset = ray.data.from_arrow([work.slice(start, _ROWS_PER_SOURCE_BLOCK) for start in starts])
    graph = graph.repartition(target_num_rows_per_block=rows)
    memory = config.runtime.memory_gib
    for pool in pools:
        graph = graph.map_batches(
            actor,
            fn_constructor_kwargs={
                "pool": pool,
                "config": config,
                "fingerprint": fingerprint,
                "ledger": ledger,
                "weights": weights,
            },
            batch_size=rows,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=min(pool.size, math.ceil(work.num_rows / rows)),
                max_tasks_in_flight_per_actor=4,
                max_concurrent_calls_per_actor=pool.calls,
                enable_true_multi_threading=pool.calls > 1,
            ),
            # A model actor that reserves a CPU can starve the reading and writing tasks for ever.
            num_cpus=0,
            num_gpus=pool.num_gpus,
            memory=None if memory is None else memory * 1024**3,
            # Without end: an image that ends every process is found by the ledger and given up.
            max_restarts=-1,
            max_task_retries=-1,
            runtime_env={"env_vars": dict(environment or {})},
            **(place or {}),
        )
    graph.write_datasink(sink, ray_remote_args=dict(place or {}))
    return _figures(graph)


def configure(context: DataContext, config: Config) -> None:
    """Settings of Ray Data for this job: our own progress line, and no waiting for ever."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = config.runtime.no_progress_seconds
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Until Ray 2.64 this is the only way to say max_task_retries.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*is deprecated")


def _figures(graph: ray.data.Dataset) -> dict[str, Any]:
    """What ``run_graph`` returns; {} where this version of Ray has no such interface, which is for developers."""
    try:
        # The public list of such summaries costs an actor, which takes a second to start at the end of every run.
        last: Any = graph.get_stats_summary()
        operators = [
            {
                "operator": operator.operator_name,
                "tasks": operator.wall_time.count,
                "wall_seconds": round(operator.wall_time.sum, 3),
                "cpu_seconds": round(operator.cpu_time.sum, 3),
                "output_rows": operator.output_num_rows.sum,
            }
            for summary in _with_parents(last)
            for operator in summary.operators_stats
            if operator.wall_time is not None
        ]
        return {"operators": operators, "spilled_bytes": last.dataset_bytes_spilled}
    except Exception:
        # Everything is committed by now: no figure is worth the run.
        return {}


def _with_parents(summary: Any) -> list[Any]:
    """Ray Data keeps the operators before the last one in a tree of parents."""
    return [operator for parent in summary.parents for operator in _with_parents(parent)] + [summary]
