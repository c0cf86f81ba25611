"""What a run would be, before anything runs: counts, sizes, tiles, time, output. Needs neither Torch nor Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zsad.config import Config, load_config
from zsad.errors import ImageError, UsageError
from zsad.filesystem import absolute, read_bytes, redact, resolve
from zsad.fingerprint import differences, scored_fields
from zsad.images import image_size
from zsad.pipeline.cost import USUAL_TILES, StageCosts, measured_costs, stage_costs
from zsad.pipeline.score import ScoreOptions, manifest_of
from zsad.pipeline.text import stage_times
from zsad.storage import RunInfo, check_output, committed_rows, count_rows, read_run, work_left
from zsad.storage.compact import stored
from zsad.text import count, duration, size

_SAMPLE = 200
_SEED = 0
_THREADS = 16
_HEAD_BYTES = 1 << 16
_TILE_SIDE = 352
"""Pixels of a tile map's side (CLIPSeg's input)."""
_BYTES_PER_PIXEL = 0.55
"""Of a stored map: half to two thirds of a byte on photographs, with the codec of ``zsad.storage.codec``."""
_ROW_BYTES = 400
_SHOWN_CATEGORIES = 40


@dataclass(frozen=True)
class CategoryPlan:
    """Images of a category (None = no category), and those of them that are still to be scored."""

    name: str | None
    images: int
    to_do: int


@dataclass(frozen=True)
class Sizes:
    """Image sizes, from the headers of a seeded sample.

    Attributes:
        sampled: headers read; unreadable: those that are no image (they would become error rows); first_failure: path of
            the first of them and what is wrong with it, None where all can be read.
        smallest, median, largest: (width, height) in pixels, by area; None when none was readable.
        megapixels: mean.
    """

    sampled: int
    unreadable: int
    first_failure: str | None
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    megapixels: float


@dataclass(frozen=True)
class Plan:
    """What ``zsad score`` with the same arguments would do.

    Attributes:
        images: rows of the input; done: those that ``--output`` accounts for; to_do: the others.
        done_errors: images among ``done`` without a score.
        categories: in the manifest's order.
        sizes: of the images to do.
        tiles: expected tiles per image; tiles_source: how that is known.
        costs: what an image costs, None when nothing is known.
        worker_seconds: GPU (or worker) time in all; seconds: with ``workers`` side by side. Without start-up.
        device: ``cpu`` or ``cuda``.
        predictions_bytes, maps_bytes: what the images to do would add to the output; bytes_source: how known.
        differs: what of the configuration differs from the run at ``--output``, which would be refused.
    """

    images: int
    done: int
    done_errors: int
    to_do: int
    categories: tuple[CategoryPlan, ...]
    sizes: Sizes
    tiles: float
    tiles_source: str
    costs: StageCosts | None
    worker_seconds: float | None
    seconds: float | None
    workers: int
    device: str
    predictions_bytes: int
    maps_bytes: int
    bytes_source: str
    differs: tuple[str, ...]


def plan(options: ScoreOptions, gpus: int | None = None, measured_in: str | None = None) -> Plan:
    """Plan a run; reads the list of images, some headers and what is committed, and writes nothing.

    Args:
        options: of the run; an empty ``output`` = a new one.
        gpus: GPUs to plan for; None = those of this machine. 0 = the CPU.
        measured_in: a run whose measured times to use, instead of those of ``output``.

    Raises:
        UsageError: as ``zsad.pipeline.score.score``, except for what needs the weights.
    """
    config = load_config(options.preset, options.config, options.overrides)
    manifest = manifest_of(options, config)
    output = absolute(options.output) if options.output else None
    info = read_run(output) if output is not None else None
    if output is not None:
        # That it can be one; what differs from the run there is part of the plan.
        check_output(output, info.fingerprint if info else "", {})
    differs = _differs(config, options, info)
    work, errors = manifest, 0
    if output is not None and info is not None and not differs:
        work = work_left(manifest, output, info.fingerprint, options.retry_errors)
        if work.num_rows < manifest.num_rows:
            errors = count_rows(manifest, output, info.fingerprint).errors
    gpus = _planned_gpus(config, gpus)
    device = "cuda" if gpus else "cpu"
    source = absolute(measured_in) if measured_in is not None else (None if differs else output)
    measured = measured_costs(source) if source is not None else None
    if measured_in is not None and measured is None:
        raise UsageError(
            f"--measured-in: no scored image at {redact(absolute(measured_in))!r}. Expected the output of an earlier run."
        )
    costs = stage_costs(config, device, measured)
    sizes = sample_sizes(work if work.num_rows else manifest, config)
    tiles, tiles_source = _tiles(config, costs if costs and costs.tiles else measured)
    to_do = work.num_rows
    rows_bytes, map_bytes, bytes_source = _bytes(source if measured else None, sizes, tiles)
    workers = gpus or (costs.workers if costs else 1)
    worker_seconds = None if costs is None else to_do * costs.worker_ms / 1000
    return Plan(
        images=manifest.num_rows,
        done=manifest.num_rows - to_do,
        done_errors=errors,
        to_do=to_do,
        categories=_categories(manifest, work),
        sizes=sizes,
        tiles=tiles,
        tiles_source=tiles_source,
        costs=costs,
        worker_seconds=worker_seconds,
        seconds=None if worker_seconds is None else worker_seconds / workers,
        workers=workers,
        device=device,
        predictions_bytes=round(to_do * rows_bytes),
        maps_bytes=round(to_do * map_bytes),
        bytes_source=bytes_source,
        differs=differs,
    )


def format_plan(found: Plan) -> str:
    """The plan as a plain table for people."""
    done = f"; {found.done:,} done ({count(found.done_errors, 'error')})" if found.done else ""
    lines = [("Images", f"{found.images:,}{done}; {found.to_do:,} to do")]
    if len(found.categories) > 1 or found.categories[0].name is not None:
        width = max(len(str(category.name)) for category in found.categories)
        for category in found.categories[:_SHOWN_CATEGORIES]:
            left = f"{category.to_do:>9,} to do"
            lines.append(("", f"{category.name or '(none)':<{width}} {category.images:>9,} {left}"))
        if len(found.categories) > _SHOWN_CATEGORIES:
            lines.append(("", f"and {count(len(found.categories) - _SHOWN_CATEGORIES, 'category')} more (--json)"))
    lines.append(("Sizes", _sizes_text(found.sizes)))
    if found.sizes.first_failure:
        lines.append(("", f"e.g. {found.sizes.first_failure}"))
    lines.append(("Tiles", f"{found.tiles:.1f} per image ({found.tiles_source})"))
    if found.costs is None or found.seconds is None or found.worker_seconds is None:
        lines.append(("Time", "unknown for these models; --calibrate measures a few images"))
    else:
        # One worker has all cores.
        cpu = "this CPU" if found.workers == 1 else count(found.workers, "CPU worker")
        kind = count(found.workers, "GPU") if found.device == "cuda" else cpu
        overlap = "; the stages overlap" if found.costs.batches > 1 else ""
        per_image = f"{stage_times(found.costs.ms)} per image, {found.costs.source}{overlap}"
        total = "" if found.workers == 1 else f" ({duration(found.worker_seconds)} in all)"
        lines += [("Time", f"about {duration(found.seconds)} on {kind}{total}, without start-up"), ("", per_image)]
    written = f"predictions {size(found.predictions_bytes)}, anomaly maps {size(found.maps_bytes)}"
    lines.append(("Output", f"{written} ({found.bytes_source})"))
    text = "\n".join(f"{label:<7} {value}" for label, value in lines)
    if found.differs:
        listed = "\n  ".join(found.differs)
        text += f"\nThe output holds a run of another configuration, so 'zsad score' would refuse it:\n  {listed}"
    return text


def to_json(found: Plan) -> str:
    """The plan for programs: the fields of ``Plan``, times in seconds, sizes in bytes."""
    return json.dumps(asdict(found), indent=2)


def sample_sizes(manifest: pa.Table, config: Config) -> Sizes:
    """Sizes of at most 200 images, drawn with a fixed seed; only their headers are read."""
    paths = sampled(manifest, _SAMPLE)["image_path"].to_pylist()
    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(lambda path: _image_size(path, config), paths))
    found = [shape for shape in read if not isinstance(shape, Exception)]
    pairs = zip(paths, read, strict=True)
    failed = [f"{redact(path)!r}: {redact(str(error))}" for path, error in pairs if isinstance(error, Exception)]
    found.sort(key=lambda shape: shape[0] * shape[1])
    areas = [width * height for width, height in found]
    return Sizes(
        sampled=len(paths),
        unreadable=len(failed),
        first_failure=failed[0] if failed else None,
        smallest=found[0] if found else None,
        median=found[len(found) // 2] if found else None,
        largest=found[-1] if found else None,
        megapixels=float(np.mean(areas)) / 1e6 if areas else 0.0,
    )


def sampled(manifest: pa.Table, number: int) -> pa.Table:
    """At most ``number`` rows, drawn with a fixed seed, in the manifest's order."""
    rows = np.random.default_rng(_SEED).choice(manifest.num_rows, min(number, manifest.num_rows), replace=False)
    return manifest.take(pa.array(np.sort(rows)))


def _image_size(path: str, config: Config) -> tuple[int, int] | Exception:
    """(width, height), or what is wrong with the file."""
    try:
        try:
            filesystem, inner = resolve(path)
            with filesystem.open_input_file(inner) as file:
                head = file.read(_HEAD_BYTES)
            height, width = image_size(head, config.images.max_pixels)
        except (ImageError, OSError):
            # A long preview or colour profile can stand before the size; and what cannot be opened is explained there.
            height, width = image_size(read_bytes(path, config.images.max_file_bytes), config.images.max_pixels)
    except (ImageError, OSError, ValueError) as error:
        return error
    return width, height


def _sizes_text(sizes: Sizes) -> str:
    if sizes.median is None or sizes.smallest is None or sizes.largest is None:
        return f"none of {count(sizes.sampled, 'sampled file')} is a readable image"
    smallest, shown, largest = (" x ".join(map(str, each)) for each in (sizes.smallest, sizes.median, sizes.largest))
    if sizes.smallest != sizes.largest:
        shown = f"by area from {smallest} over {shown} (median) to {largest}"
    bad = f", {sizes.unreadable} of them unreadable" if sizes.unreadable else ""
    return f"{shown}, mean {sizes.megapixels:.2f} megapixels (headers of {count(sizes.sampled, 'image')}, seed {_SEED}{bad})"


def _differs(config: Config, options: ScoreOptions, info: RunInfo | None) -> tuple[str, ...]:
    """What ``zsad score`` would refuse. The weights' hashes are taken to be those of the run."""
    if info is None or not set(info.weights) >= set(config.models.by_family()):
        return ()
    # Precomputed foregrounds can only be told by hashing the whole manifest, which scoring does.
    foreground = info.scored_fields.get("precomputed_foreground")
    fields = scored_fields(config, info.weights, options.object_name, foreground)
    return tuple(differences(info.scored_fields, json.loads(json.dumps(fields))))


def _categories(manifest: pa.Table, work: pa.Table) -> tuple[CategoryPlan, ...]:
    left: Mapping[str | None, int] = {
        entry["values"]: entry["counts"] for entry in pc.value_counts(work["category"]).to_pylist()
    }
    return tuple(
        CategoryPlan(entry["values"], entry["counts"], left.get(entry["values"], 0))
        for entry in pc.value_counts(manifest["category"]).to_pylist()
    )


def _tiles(config: Config, measured: StageCosts | None) -> tuple[float, str]:
    if config.foreground.source == "full_image":
        return 1.0, "the whole image is one tile: foreground.source=full_image"
    if measured is not None and measured.tiles:
        return measured.tiles, f"mean of {measured.images:,} images measured"
    return float(USUAL_TILES), "assumed: how many there are shows only when the foreground is known"


def _bytes(source: str | None, sizes: Sizes, tiles: float) -> tuple[float, float, str]:
    """Bytes of predictions and of maps per image, and how they are known."""
    if source is not None:
        rows = max(1, sum(rows.num_rows for _, rows in committed_rows(source, ["gt_label"])))
        files = stored(source)
        return files.predictions_bytes / rows, files.maps_bytes / rows, f"as in {redact(source)}"
    # Stored is the map or its tile maps, whichever has fewer pixels.
    pixels = min(sizes.megapixels * 1e6 or float("inf"), tiles * _TILE_SIDE**2)
    how = f"estimated: {_ROW_BYTES} bytes a row, {_BYTES_PER_PIXEL:g} a pixel of a stored map"
    return _ROW_BYTES, pixels * _BYTES_PER_PIXEL, how


def _planned_gpus(config: Config, gpus: int | None) -> int:
    if config.runtime.device == "cpu":
        return 0
    if gpus is not None:
        return gpus
    # As many as the driver shows; CUDA_VISIBLE_DEVICES hides the others from Ray, too.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return present if visible is None else min(present, len([name for name in visible.split(",") if name.strip()]))
