"""The scoring job, top to bottom: check everything, plan the work, run the graph, close the books."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc

import zsad
from zsad.config import Config, load_config
from zsad.datasets import load_manifest
from zsad.errors import ZsadError
from zsad.filesystem import absolute, redact
from zsad.fingerprint import fingerprint, scored_fields
from zsad.models.weights import all_trained
from zsad.pipeline.weights import validate_models, weights_hashes
from zsad.storage import (
    Counts,
    RunInfo,
    broken_parts,
    check_output,
    count_rows,
    drop_superseded,
    manifest_hash,
    output_lock,
    read_run,
    read_success,
    set_aside_broken,
    work_left,
    write_run,
    write_success,
)
from zsad.text import count, duration

_PACKAGES = (
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
        address: see ``zsad.pipeline.ray_session.connected``.
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
        images: rows of the input's images; errors: those without a score; scored_now: work of this run.
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


def score(options: ScoreOptions, stream: TextIO | None = None) -> ScoreSummary:
    """Score a collection; run again to resume. Progress and summary go to ``stream``, ``sys.stderr`` by default.

    Raises:
        UsageError: anything that can be known to be wrong before a worker starts; nothing is written then.
        ZsadError: the run failed; what is committed stays.
    """
    start = time.monotonic()
    stream = stream or sys.stderr
    config = load_config(options.preset, options.config, options.overrides)
    output = absolute(options.output)
    manifest = manifest_of(options, config)
    foreground = _foreground_hash(manifest)
    _check_but_for_weights(output, config, options.object_name, foreground)
    info = _run_info(options, config, manifest, weights_hashes(config), foreground)
    earlier = check_output(output, info.fingerprint, info.scored_fields)
    hashed = manifest_hash(manifest)
    if earlier is not None and not options.retry_errors and _is_finished(output, hashed):
        # Nothing is written, so neither a lock nor permission to write is needed.
        work = work_left(manifest, output, info.fingerprint)
        if work.num_rows == 0:
            _announce(options, info, manifest, work, stream)
            return _finish(options, info, count_rows(manifest, output, info.fingerprint), 0, start, stream)

    with output_lock(output, stream) as lock, _interruptible(stream):
        # Another run may have ended since the first look.
        earlier = check_output(output, info.fingerprint, info.scored_fields)
        if earlier is not None:
            for name in set_aside_broken(output):
                print(f"Set aside a broken part of an earlier run: {name}", file=stream)
        work = work_left(manifest, output, info.fingerprint, options.retry_errors)
        _announce(options, info, manifest, work, stream)
        # Where nothing is left to do, what was scored is what an earlier command named.
        written = info if earlier is None else earlier
        if work.num_rows:
            _warn_of_another_root(earlier, info.dataset["root"], stream)
            print("Checking that weights and prompts fit.", file=stream, flush=True)
            with _without_collecting():
                validate_models(config, pc.unique(work["class_name"]).to_pylist())
                # Ray and torch take seconds to import; a finished run and a wrong option need neither.
                from zsad.pipeline.execute import execute

            before = replace(info, timings=written.timings)
            timings = execute(work, config, before, lock, options.address, stream)
            written = replace(info, timings={"runs": [*before.timings.get("runs", []), timings]})
        lock.check()
        drop_superseded(output, info.fingerprint)
        rows = count_rows(manifest, output, info.fingerprint)
        if rows.images < manifest.num_rows:
            left = work_left(manifest, output, info.fingerprint)
            raise ZsadError(
                f"{left.num_rows} of {manifest.num_rows} images have no row after the run, e.g. "
                f"{left['image_id'][0].as_py()!r}. What is committed stays; run the same command again."
            )
        summary = _finish(options, info, rows, work.num_rows, start, stream)
        counts = {"images": summary.images, "ok": summary.images - summary.errors, "errors": summary.errors}
        lock.check()
        write_run(output, replace(written, counts={**counts, "reasons": dict(rows.reasons)}))
        write_success(output, counts, hashed)
        return summary


def manifest_of(options: ScoreOptions, config: Config) -> pa.Table:
    """The images that the options name, as a table of ``MANIFEST_SCHEMA``. Raises UsageError."""
    return load_manifest(
        options.dataset,
        absolute(options.root),
        split=options.split,
        categories=options.categories,
        limit=options.limit,
        object_name=options.object_name,
        class_names=config.prompts.class_names,
        allow_outside_root=options.allow_outside_root,
    )


@contextmanager
def _interruptible(stream: TextIO) -> Iterator[None]:
    """Ctrl-C and SIGTERM drop the batches at work; a part that is being written is whole or not there."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print("Interrupted. What is committed stays; run the same command again to go on.", file=stream, flush=True)
        raise


@contextmanager
def _without_collecting() -> Iterator[None]:
    """No garbage collection in the block. Imports create a million lasting objects, and collecting takes a second."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_but_for_weights(output: str, config: Config, object_name: str | None, foreground: str | None) -> None:
    """``check_output`` before any weights are fetched: with the weights' hashes of the run there, if it has all of them.

    Raises:
        UsageError: as ``check_output``; the configuration differs in more than the content of the weights.
    """
    present = read_run(output)
    if present is not None and set(present.weights) >= set(config.models.by_family()):
        same = (config, present.weights, object_name, foreground)
        check_output(output, fingerprint(*same), scored_fields(*same))
    else:
        check_output(output, present.fingerprint if present else "", {})


def _warn_of_another_root(earlier: RunInfo | None, root: str, stream: TextIO) -> None:
    now = redact(root)
    before = earlier.dataset.get("root", now) if earlier is not None else now
    if before != now:
        print(
            f"Warning: this run began with --root {before!r}. Its rows stay, and what lies under the root given "
            "now has rows of its own.",
            file=stream,
        )


def _is_finished(output: str, hashed: str) -> bool:
    """Whether ``_SUCCESS`` speaks for this manifest and every part is still whole."""
    success = read_success(output)
    return success is not None and success.manifest_hash == hashed and not broken_parts(output)


def _foreground_hash(manifest: pa.Table) -> str | None:
    """Hash of the precomputed foregrounds, which replace IS-Net and SAM, or None where there are none."""
    paths = manifest.select(["image_id", "foreground_path"])
    return None if paths["foreground_path"].null_count == paths.num_rows else manifest_hash(paths)


def _announce(options: ScoreOptions, info: RunInfo, manifest: pa.Table, work: pa.Table, stream: TextIO) -> None:
    categories = [name for name in pc.unique(manifest["category"]).to_pylist() if name is not None]
    where = f" in {count(len(categories), 'category')}" if categories else ""
    if categories and manifest["category"].null_count:
        where += " or none"
    print(
        f"{count(manifest.num_rows, 'image')}{where} ({options.dataset}, {redact(options.root)}); "
        f"{manifest.num_rows - work.num_rows:,} already done, {work.num_rows:,} to do.\n"
        f"Preset {info.config['preset']}, fingerprint {info.fingerprint[:12]}"
        + ("" if info.dataset["trained"] else "; weights: untrained"),
        file=stream,
        flush=True,
    )


def _finish(
    options: ScoreOptions, info: RunInfo, rows: Counts, scored_now: int, start: float, stream: TextIO
) -> ScoreSummary:
    """Print the summary, and derive the exit code from the rows of the manifest's images."""
    images, errors, trained = rows.images, rows.errors, info.dataset["trained"]
    seconds = time.monotonic() - start
    code = 3 if images and errors / images > options.max_error_fraction else 0
    rate = f" ({scored_now / seconds:.2f} images/s with start-up)" if scored_now else ""
    print(f"Scored {count(scored_now, 'image')} in {duration(seconds)}{rate}.", file=stream)
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in rows.reasons.items())
    found = f"{count(images, 'row')}, {rows.ok:,} ok, {count(errors, 'error')}"
    print(found + (f": {reasons}" if reasons else ""), file=stream)
    if rows.others:
        print(
            f"The table holds {count(rows.others, 'more row')}, of images that are not in this input; they are ranked, "
            "evaluated and exported as well.",
            file=stream,
        )
    if errors and scored_now:
        print("--retry-errors does the failed ones again; a changed file is done again by itself.", file=stream)
    if code:
        limit = f"--max-error-fraction {options.max_error_fraction:g}"
        print(f"{errors:,} of {count(images, 'image')} failed, over {limit}: exit code 3.", file=stream)
    if not trained:
        print("The models are untrained (random weights): the scores mean nothing.", file=stream)
    print(f"Output: {redact(absolute(options.output))}", file=stream, flush=True)
    return ScoreSummary(images, errors, scored_now, seconds, code, trained)


def _run_info(
    options: ScoreOptions,
    config: Config,
    manifest: pa.Table,
    weights: dict[str, str],
    foreground: str | None,
) -> RunInfo:
    """``run.json`` of this run, without counts and timings; ``foreground`` is ``_foreground_hash``."""
    has_splits = manifest["split"].null_count < manifest.num_rows
    return RunInfo(
        fingerprint=fingerprint(config, weights, options.object_name, foreground),
        config=config.model_dump(mode="json"),
        scored_fields=scored_fields(config, weights, options.object_name, foreground),
        weights=weights,
        # A submitted job runs from its working directory, where zsad itself need not be installed.
        versions={"zsad": zsad.__version__} | {package: version(package) for package in _PACKAGES},
        dataset={
            "layout": options.dataset,
            "root": absolute(options.root),
            "split": options.split if has_splits else None,
            "object": options.object_name,
            "categories": list(options.categories),
            "limit": options.limit,
            "trained": all_trained(config.models),
        },
    )
