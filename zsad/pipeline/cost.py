"""What an image costs per stage: measured in a run, measured once by ``zsad plan --calibrate``, or computed.

Needs neither Torch nor Ray.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zsad.config import Config
from zsad.filesystem import redact
from zsad.layout import PREDICTIONS
from zsad.models.registry import entry
from zsad.models.weights import cache_folder
from zsad.storage import RunInfo, list_parts, read_run, write_atomically
from zsad.storage.files import DamagedPart, read_part
from zsad.storage.schemas import STAGE_MS

STAGES = tuple(field.name for field in STAGE_MS)
"""``load`` and the steps of the method, in order."""
_FAMILY = {"saliency": "isnet", "instances": "sam", "tile_scores": "clip", "tile_maps": "clipseg"}

USUAL_TILES = 6
_GFLOP = {
    "isnet-general-use": 319,
    "sam-vit-b": 972 + 3710,
    "sam-vit-l": 2986 + 3710,
    "sam-vit-h": 5961 + 3710,
    "ViT-B-16-plus-240/laion400m_e31": 55 * USUAL_TILES,
    "ViT-L-14-336-quickgelu/openai": 382 * USUAL_TILES,
    "ViT-H-14/laion2b_s32b_b79k": 335 * USUAL_TILES,
    "ViT-SO400M-16-SigLIP2-384/webli": 519 * USUAL_TILES,
    "PE-Core-L-14-336/meta": 384 * USUAL_TILES,
    "clipseg-rd64-refined": (77 + 1.2 * 18) * USUAL_TILES,
}
"""Billions of floating-point operations per image of 1500 x 1000 pixels with six tiles."""

_GPU_TFLOP_PER_SECOND = {"fp32": 15, "bf16": 150, "fp16": 150}
"""What a data-centre GPU is taken to sustain. In half precision about what the four models got out of an H200 together
(``benchmarks/GPU.md``); in float32 no measurement."""
_LOAD_MS = 15.0
_SLOW_SECONDS = 60
_SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class StageCosts:
    """What one worker needs per image.

    Attributes:
        ms: stage -> milliseconds per image; the stages of ``STAGES`` that are known.
        source: where the figures come from, for people.
        device: ``cpu`` or ``cuda``.
        workers: how many such workers ran, or would run, side by side.
        images: number of images measured; 0 = computed.
        tiles: mean number of tiles per image; None = unknown.
        batches: how many a worker had in steps at once, each in another one.
    """

    ms: Mapping[str, float]
    source: str
    device: str
    workers: int = 1
    images: int = 0
    tiles: float | None = None
    batches: int = 1

    @property
    def total_ms(self) -> float:
        """Milliseconds per image, all stages."""
        return sum(self.ms.values())

    @property
    def worker_ms(self) -> float:
        """Milliseconds that a worker takes from one finished image to the next, at the least."""
        return max(0.0, *self.ms.values(), self.total_ms / self.batches)


def stage_costs(config: Config, device: str, measured: StageCosts | None) -> StageCosts | None:
    """The best figures at hand: ``measured``, else the calibration, else computed; None = nothing known.

    Args:
        config: the configuration.
        device: ``cpu`` or ``cuda``.
        measured: ``measured_costs`` of a run; not used where its device is the other kind. None = no run.
    """
    if measured is not None and measured.device == device:
        return measured
    return calibrated_costs(config, device) or table_costs(config, device)


def measured_costs(output: str) -> StageCosts | None:
    """Mean of ``stage_ms`` over the newest rows of a run (at most about 20,000); None where there are none.

    The slowest twentieth of the rows is left out: it holds the warm-up of every actor.
    """
    info = read_run(output)
    tables: list[pa.Table] = []
    for name in reversed(list_parts(output, PREDICTIONS)):
        try:
            rows = read_part(output, PREDICTIONS, name, ["status", "stage_ms", "tiles"])
        except DamagedPart:
            continue
        tables.append(rows.filter(pc.equal(rows["status"], "ok")))
        if sum(table.num_rows for table in tables) >= _SAMPLE_ROWS:
            break
    rows = pa.concat_tables(tables) if tables else None
    if info is None or rows is None or not rows.num_rows:
        return None
    ms = {stage: _typical(pc.struct_field(rows["stage_ms"], stage)) for stage in STAGES}
    on_gpu, actors, batches = _last_pools(info)
    where = "GPU" if on_gpu else "CPU"
    return StageCosts(
        {stage: value for stage, value in ms.items() if value is not None},
        f"measured over {rows.num_rows:,} images in {redact(output)} ({where})",
        "cuda" if on_gpu else "cpu",
        actors,
        rows.num_rows,
        float(pc.mean(pc.list_value_length(rows["tiles"])).as_py() or 0),
        batches,
    )


def calibrated_costs(config: Config, device: str) -> StageCosts | None:
    """What ``store_calibration`` keeps for these models and this kind of device on this machine, or None."""
    try:
        return StageCosts(**json.loads(_calibration(config, device).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def store_calibration(config: Config, costs: StageCosts) -> str:
    """Keep figures for later plans and runs with the same models and settings; returns the file's path."""
    path = _calibration(config, costs.device)
    text = json.dumps(asdict(costs), indent=2) + "\n"
    write_atomically(str(path), lambda sink: sink.write(text.encode()))
    return str(path)


def table_costs(config: Config, device: str) -> StageCosts | None:
    """Computed from each model's operations; None when one of the models has no entry in the table."""
    models = config.models.by_family()
    gflop = {stage: _GFLOP.get(models[family].name) for stage, family in _FAMILY.items()}
    if None in gflop.values():
        return None
    if device == "cuda":
        speed = _GPU_TFLOP_PER_SECOND[config.models.precision] * 1000.0
        source = f"computed, for a GPU that sustains {speed / 1000:g} TFLOP/s; 'zsad plan --calibrate' measures"
    else:
        speed = _cpu_gflop_per_second()
        source = f"computed, from {speed:.0f} GFLOP/s of a matrix product on this CPU; 'zsad plan --calibrate' measures"
    ms = {stage: 1000 * value / speed for stage, value in gflop.items() if value is not None}
    return StageCosts({"load": _LOAD_MS, **ms}, source, device)


def slow_warning(config: Config, device: str) -> str | None:
    """A warning with the estimate when an image would take over a minute on this CPU, else None."""
    costs = stage_costs(config, device, None) if device == "cpu" else None
    if costs is None or costs.total_ms < _SLOW_SECONDS * 1000:
        return None
    return (
        f"Preset {config.preset} on this CPU: roughly {costs.total_ms / 60_000:.1f} minutes per image "
        f"({costs.source}). Expected a GPU."
    )


def weights_gib(config: Config) -> float:
    """Size of the weights of all four models in GiB, as far as the registry knows it."""
    return sum(entry(model.name).size_bytes or 0 for model in config.models.by_family().values()) / 1024**3


def _typical(values: pa.ChunkedArray) -> float | None:
    found = np.sort(values.drop_null().to_numpy().astype(np.float64))
    return float(found[: max(1, int(0.95 * len(found)))].mean()) if len(found) else None


def _last_pools(info: RunInfo) -> tuple[bool, int, int]:
    """Whether the last run used GPUs, how many actors had the last step, and batches in steps at once of each."""
    pools = (info.timings.get("runs") or [info.timings])[-1].get("pools") or [{}]
    last = pools[-1]
    batches = int(last.get("calls", 1)) if last.get("overlap") else 1
    return any(pool.get("num_gpus") for pool in pools), int(last.get("size", 1)), batches


def _calibration(config: Config, device: str) -> Path:
    fields = config.model_dump(mode="json", include={"models", "foreground", "tiling"})
    digest = hashlib.sha256(json.dumps([fields, device], sort_keys=True).encode()).hexdigest()
    return cache_folder() / "calibration" / f"{digest[:16]}.json"


def _cpu_gflop_per_second() -> float:
    """Speed of a matrix product on all cores, which convolutions and attention do not exceed."""
    size = 1024
    matrix = np.random.default_rng(0).random((size, size), np.float32)
    matrix @ matrix
    start = time.perf_counter()
    for _ in range(5):
        matrix @ matrix
    return 5 * 2 * size**3 / 1e9 / (time.perf_counter() - start)
