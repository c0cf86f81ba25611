"""The scoring job, top to bottom: check everything, plan the work, run the graph, close the books."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import ray

from zsad.config import Config, fingerprint, load_config, scored_fields
from zsad.datasets import load_manifest
from zsad.detector import device_of, trained_models
from zsad.errors import UsageError, ZsadError
from zsad.filesystem import absolute, redact
from zsad.models import clip, clipseg, isnet, sam
from zsad.models.weights import is_trained, locate, sha256_of
from zsad.pipeline.cluster import check_nodes, cluster_resources, connected
from zsad.pipeline.cost import slow_warning, weights_gib
from zsad.pipeline.graph import run_graph
from zsad.pipeline.pools import describe, plan_pools
from zsad.pipeline.progress import ProgressCounter, ProgressReporter, duration
from zsad.pipeline.sink import PartSink
from zsad.storage import (
    RunInfo,
    check_output,
    clear_success,
    committed_rows,
    drop_superseded,
    manifest_hash,
    new_run_id,
    read_success,
    set_aside_broken,
    work_left,
    write_run,
    write_success,
)

_FAMILIES = {"isnet": isnet, "sam": sam, "clip": clip, "clipseg": clipseg}
_PACKAGES = (
    "zsad",
    "torch",
    "ray",
    "pyarrow",
    "open_clip_torch",
    "transformers",
    "segment-anything",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class ScoreOptions:
    """What to score and where to; the arguments of ``zsad score``.

    Attributes:
        dataset: ``visa``, ``mvtec``, ``folder`` or ``manifest``.
        root: path or URI of the dataset.
        output: path or URI of the results; an earlier run there is resumed.
        preset, config, overrides: see ``zsad.config.load_config``.
        object_name: noun of a folder.
        categories: only these; empty = all.
        split: only this split, where the dataset has splits; ``all`` for every one.
        limit: only the first N images.
        address: see ``zsad.pipeline.cluster.connected``.
        retry_errors: do images again whose row is an error.
        max_error_fraction: share of images that may fail before the exit code is 3.
        allow_outside_root: allow manifest paths that leave the root.
    """

    dataset: str
    root: str
    output: str
    preset: str = "vand2023"
    config: str | None = None
    overrides: tuple[str, ...] = ()
    object_name: str | None = None
    categories: tuple[str, ...] = ()
    split: str = "test"
    limit: int | None = None
    address: str | None = None
    retry_errors: bool = False
    max_error_fraction: float = 0.01
    allow_outside_root: bool = False


@dataclass(frozen=True)
class ScoreSummary:
    """How a run ended, counted in the committed table.

    Attributes:
        images: rows of the table; errors: those without a score; scored_now: work of this run.
        seconds: wall time of this run.
        exit_code: 0, or 3 when more images failed than ``max_error_fraction`` allows.
        trained: False when any model has random weights.
    """

    images: int
    errors: int
    scored_now: int
    seconds: float
    exit_code: int
    trained: bool


def score(options: ScoreOptions, stream: TextIO = sys.stderr) -> ScoreSummary:
    """Score a collection; run again to resume. Progress and summary go to ``stream``.

    Raises:
        UsageError: anything that can be known to be wrong before a worker starts; nothing is written then.
        ZsadError: the run failed; what is committed stays.
    """
    start = time.monotonic()
    config = load_config(options.preset, options.config, options.overrides)
    root, output = absolute(options.root), absolute(options.output)
    manifest = load_manifest(
        options.dataset,
        root,
        split=options.split,
        categories=options.categories,
        limit=options.limit,
        object_name=options.object_name,
        class_names=config.prompts.class_names,
        allow_outside_root=options.allow_outside_root,
    )
    weights = weights_hashes(config)
    mark = fingerprint(config, weights, options.object_name)
    fields = scored_fields(config, weights, options.object_name)
    earlier = check_output(output, mark, fields)
    if earlier is not None:
        for name in set_aside_broken(output):
            print(f"Set aside a broken part of an earlier run: {name}", file=stream)
    work = work_left(manifest, output, mark, options.retry_errors)
    trained = trained_models(config)
    _announce(options, config, manifest, work, mark, trained, stream)

    hashed = manifest_hash(manifest)
    success = read_success(output) if earlier is not None else None
    if work.num_rows == 0 and success is not None and success.manifest_hash == hashed:
        return _finish(options, output, 0, start, trained, stream)

    timings: dict[str, Any] = {}
    if work.num_rows:
        validate_weights(config)
        with connected(options.address):
            timings = _run(work, options, config, mark, root, output, stream, fields, weights)
        left = work_left(manifest, output, mark)
        if left.num_rows:
            raise ZsadError(
                f"{left.num_rows} of {manifest.num_rows} images have no row after the run, e.g. "
                f"{left['image_id'][0].as_py()!r}. What is committed stays; run the same command again."
            )
    drop_superseded(output, mark)
    summary = _finish(options, output, work.num_rows, start, trained, stream)
    counts = {"images": summary.images, "ok": summary.images - summary.errors, "errors": summary.errors}
    write_run(output, _run_info(options, config, mark, fields, weights, root, counts, timings))
    write_success(output, counts, hashed)
    return summary


def weights_hashes(config: Config) -> dict[str, str]:
    """sha256 of the weights by family; for random models of their state dict.

    Raises:
        UsageError: weights that cannot be had.
    """
    hashes = {}
    for family, module in _FAMILIES.items():
        model = getattr(config.models, family)
        if is_trained(model.name, model.weights):
            hashes[family] = sha256_of(locate(model.name, model.weights))
        else:
            hashes[family] = module.load(model, "cpu", "fp32").sha256
    return hashes


def validate_weights(config: Config) -> None:
    """Load each model once on the CPU, so that weights that do not fit fail here and not on every worker.

    Raises:
        UsageError: says which entries are missing, unexpected or of another shape.
    """
    for family, module in _FAMILIES.items():
        model = getattr(config.models, family)
        if is_trained(model.name, model.weights):
            module.load(model, "cpu", "fp32")


def _run(
    work: pa.Table,
    options: ScoreOptions,
    config: Config,
    mark: str,
    root: str,
    output: str,
    stream: TextIO,
    fields: dict[str, Any],
    weights: dict[str, str],
) -> dict[str, Any]:
    check_nodes(root, output, config)
    resources = cluster_resources()
    pools = plan_pools(config, resources, actor_gib=1 + 1.5 * weights_gib(config))
    device = "cpu" if not any(pool.num_gpus for pool in pools) else "cuda"
    warning = slow_warning(config, device)
    if warning:
        print(f"Warning: {warning}", file=stream)
    print(f"Actor pools: {describe(pools)}", file=stream, flush=True)
    # From here on the output is written to.
    clear_success(output)
    write_run(output, _run_info(options, config, mark, fields, weights, root, {}, {}))
    run_id = new_run_id(output)
    rows_per_part = config.runtime.rows_per_part or min(max(work.num_rows // 100, 16), 2048)
    counter = ray.remote(num_cpus=0)(ProgressCounter).remote()
    start = time.monotonic()
    try:
        with ProgressReporter(counter, work.num_rows, stream):
            run_graph(work, pools, config, mark, PartSink(output, run_id, rows_per_part), counter)
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, UsageError):
            raise cause from None
        raise ZsadError(
            f"The run stopped: {type(cause).__name__}: {redact(str(cause)).strip().splitlines()[-1][:500]}\n"
            "What is committed stays; run the same command again to go on."
        ) from error
    seconds = time.monotonic() - start
    return {
        "seconds": round(seconds, 3),
        "images": work.num_rows,
        "images_per_second": round(work.num_rows / seconds, 4),
        "pools": [asdict(pool) for pool in pools],
        "ray_data": _operator_stats(),
    }


def _operator_stats() -> dict[str, Any]:
    """Ray Data's figures of the run per operator; an interface that may be missing in other versions."""
    try:
        summary = ray.data.list_stats_summaries()[-1]
        operators = [
            {
                "operator": operator.operator_name,
                "tasks": operator.wall_time.count,
                "wall_seconds": round(operator.wall_time.sum, 3),
                "cpu_seconds": round(operator.cpu_time.sum, 3),
                "output_rows": operator.output_num_rows.sum,
            }
            for operator in summary.operators_stats
            if operator.wall_time is not None
        ]
        return {"operators": operators, "spilled_bytes": summary.dataset_bytes_spilled}
    except (AttributeError, IndexError, TypeError, ray.exceptions.RayError):
        return {}


def _announce(
    options: ScoreOptions,
    config: Config,
    manifest: pa.Table,
    work: pa.Table,
    mark: str,
    trained: bool,
    stream: TextIO,
) -> None:
    categories = [name for name in pc.unique(manifest["category"]).to_pylist() if name is not None]
    where = f" in {len(categories)} categories" if categories else ""
    print(
        f"{manifest.num_rows} images{where} ({options.dataset}, {redact(options.root)}); "
        f"{manifest.num_rows - work.num_rows} already scored, {work.num_rows} to do.\n"
        f"Preset {config.preset}, fingerprint {mark[:12]}" + ("" if trained else "; weights: untrained"),
        file=stream,
        flush=True,
    )


def _finish(
    options: ScoreOptions, output: str, scored_now: int, start: float, trained: bool, stream: TextIO
) -> ScoreSummary:
    """Count the committed table, print the summary, and derive the exit code from the counts."""
    images, failures = 0, Counter[str]()
    for _, rows in committed_rows(output, ["status", "error_stage", "error_type"]):
        images += rows.num_rows
        failed = rows.filter(pc.equal(rows["status"], "error"))
        failures.update(
            map("/".join, zip(*(failed[c].to_pylist() for c in ("error_stage", "error_type")), strict=True))
        )
    errors = failures.total()
    seconds = time.monotonic() - start
    code = 3 if images and errors / images > options.max_error_fraction else 0
    rate = f" ({scored_now / seconds:.2f} images/s with start-up)" if scored_now else ""
    print(f"Scored {scored_now} images in {duration(seconds)}{rate}.", file=stream)
    reasons = ", ".join(f"{reason} {count}" for reason, count in failures.most_common(5))
    print(f"{images} rows, {images - errors} ok, {errors} errors" + (f": {reasons}" if reasons else ""), file=stream)
    if code:
        print(f"More than {options.max_error_fraction:.1%} of the images failed (--max-error-fraction).", file=stream)
    if not trained:
        print("The models are untrained (random weights): the scores mean nothing.", file=stream)
    print(f"Output: {redact(output)}", file=stream, flush=True)
    return ScoreSummary(images, errors, scored_now, seconds, code, trained)


def _run_info(
    options: ScoreOptions,
    config: Config,
    mark: str,
    fields: dict[str, Any],
    weights: dict[str, str],
    root: str,
    counts: dict[str, int],
    timings: dict[str, Any],
) -> RunInfo:
    return RunInfo(
        fingerprint=mark,
        config=config.model_dump(mode="json"),
        scored_fields=fields,
        weights=weights,
        versions={package: version(package) for package in _PACKAGES},
        dataset={
            "layout": options.dataset,
            "root": root,
            "split": options.split,
            "object": options.object_name,
            "categories": list(options.categories),
            "limit": options.limit,
            "trained": trained_models(config),
            "device": device_of(config),
        },
        counts=counts,
        timings=timings,
    )
