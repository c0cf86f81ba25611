"""Running the work list on a cluster: connect, check, size the pools, run the graph."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any, TextIO

import pyarrow as pa
import ray
from ray.data.exceptions import ExecutionTimeoutError

from zsad.config import Config
from zsad.errors import ZsadError
from zsad.filesystem import redact
from zsad.pipeline.cluster import check_nodes, no_progress, on_this_node, placement, probe, wait_for_gpus
from zsad.pipeline.cost import measured_costs, slow_warning, stage_costs, weights_gib
from zsad.pipeline.graph import run_graph
from zsad.pipeline.ledger import Ledger
from zsad.pipeline.pools import describe, images_within, plan_pools
from zsad.pipeline.progress import ProgressReporter
from zsad.pipeline.ray_session import MALLOC_SETTINGS, connected
from zsad.pipeline.sink import PartSink
from zsad.pipeline.text import stage_times
from zsad.storage import Lock, RunInfo, clear_success, new_run_id, write_run

_GIVEN_UP = 10
"""The run stops when more images than this, and more than 1 % of those done, have ended every process that worked on them."""
_PART_SECONDS = 180.0
"""The longest that a part or a batch should take, by the known costs of an image: a killed run loses what it has not
committed."""
_GO_ON = "What is committed stays; run the same command again to go on."


def execute(
    work: pa.Table,
    config: Config,
    info: RunInfo,
    lock: Lock,
    address: str | None,
    stream: TextIO,
) -> dict[str, Any]:
    """Score the images of a work list into ``lock.output`` and return the timings of the run.

    Args:
        work: manifest rows, one per image to score.
        config: the configuration.
        info: written to ``run.json`` before the first row; names the root of the dataset.
        lock: of the output; checked before every commit.
        address: see ``zsad.pipeline.ray_session.connected``.
        stream: for progress.

    Raises:
        UsageError: the cluster cannot run this; nothing is written then.
        ZsadError: the run failed; what is committed stays.
    """
    root, output = info.dataset["root"], lock.output
    probe(output)
    joins = (address or os.environ.get("RAY_ADDRESS", "local")) != "local"
    print("Connecting to Ray." if joins else "Starting Ray.", file=stream, flush=True)
    with connected(address):
        wait_for_gpus(root, output, config, stream)
        check_nodes(root, output, config)
        resources = ray.cluster_resources()
        device = "cuda" if resources.get("GPU", 0) and config.runtime.device != "cpu" else "cpu"
        costs = stage_costs(config, device, measured_costs(output))
        pools = plan_pools(config, resources, 1 + 1.5 * weights_gib(config), costs)
        warning = slow_warning(config, device)
        if warning:
            print(f"Warning: {warning} To try a few images first, say --limit 3.", file=stream)
        print(f"Actor pools: {describe(pools)}", file=stream, flush=True)
        # From here on the output is written to; waiting for GPUs may have taken long.
        lock.check()
        clear_success(output)
        write_run(output, info)
        actor_rows, all_rows = images_within(_PART_SECONDS, pools, costs)
        rows_per_part = config.runtime.rows_per_part or min(max(work.num_rows // 100, 16), 2048, all_rows)
        if actor_rows < config.runtime.batch_size:
            runtime = config.runtime.model_copy(update={"batch_size": actor_rows})
            config = config.model_copy(update={"runtime": runtime})
        sink = PartSink(output, new_run_id(output), rows_per_part, lock)
        ledger = start_ledger()
        start = time.monotonic()
        try:
            with ProgressReporter(ledger, work.num_rows, stream) as progress:
                # A Ray of our own has started with these settings; a process with others starts a second later.
                settings = MALLOC_SETTINGS if joins else {}
                missing = {name: value for name, value in settings.items() if name not in os.environ}
                figures = run_graph(
                    work,
                    pools,
                    config,
                    info.fingerprint,
                    sink,
                    ledger,
                    place=placement([root, output], config.runtime.shared_filesystem),
                    environment=missing,
                    weights=info.weights,
                )
        except Exception as error:
            # Ray Data's own errors, such as that of no progress, have no base class but this.
            raise _explain(error, config.runtime.no_progress_seconds) from error
        seconds = time.monotonic() - start
        print(f"Per image: {stage_times(progress.stage_ms)}.", file=stream, flush=True)
        return {
            "seconds": round(seconds, 3),
            "images": work.num_rows,
            "images_per_second": round(work.num_rows / seconds, 4),
            "stage_ms": progress.stage_ms,
            "pools": [asdict(pool) for pool in pools],
            "ray_data": figures,
        }


def start_ledger() -> Any:
    """Handle of the run's ``Ledger``, on the node that this process is connected to: the last one to go."""
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(Ledger).options(**options, scheduling_strategy=on_this_node(soft=True)).remote(_GIVEN_UP)


def _explain(error: BaseException, no_progress_seconds: float) -> ZsadError:
    """What stopped the run, without the layers of Ray around it: our own error, else the innermost one."""
    chain = _causes(error)
    for cause in chain:
        if isinstance(cause, ZsadError):
            # Not a UsageError, which promises that nothing was written.
            return ZsadError(f"The run stopped: {cause}\n{_GO_ON}")
    if any(isinstance(cause, ExecutionTimeoutError) for cause in chain):
        return ZsadError(f"The run stopped: {no_progress(no_progress_seconds)}\n{_GO_ON}")
    innermost = chain[-1]
    text = " ".join(redact(str(innermost)).split())
    return ZsadError(f"The run stopped: {type(innermost).__name__}: {text[:500]}\n{_GO_ON}")


def _causes(error: BaseException) -> list[BaseException]:
    """``error`` and all errors it wraps, outermost first."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, BaseException) and current not in found:
            found.append(current)
            waiting += [getattr(current, "cause", None), current.__cause__, current.__context__, *current.args]
    return found
