"""The ceiling of everything that is not a model: tiny images through the real graph, with steps that cost nothing.

    python -m benchmarks.ceiling --images 100000

Every image is read, decoded once (JPEG of about 64 kB), carried through the graph and committed with its row and its
anomaly map. The steps only fill in what the models would have found. What is left is decoding, the map (projection,
statistics, encoding), Arrow, Ray and Parquet.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from benchmarks.measure import FamilyClock
from benchmarks.rows import Row
from zsad.config import Config, load_config
from zsad.datasets import load_manifest
from zsad.detector import METHOD, Step
from zsad.method.tiling import Tile
from zsad.pipeline.actor import StepActor
from zsad.pipeline.execute import start_ledger
from zsad.pipeline.graph import run_graph
from zsad.pipeline.pools import Pool
from zsad.pipeline.ray_session import connected
from zsad.pipeline.sink import PartSink
from zsad.steps.item import ImageItem, load
from zsad.storage import count_rows, new_run_id
from zsad.threads import file_threads

GOAL = 150
DISTINCT = 300
HEIGHT, WIDTH = 384, 512
TILE = Tile(64, 0, 448, 384, 1)
MAP_SIDE = 352
ROWS_PER_PART = 1024
BATCH = 32


@dataclass(frozen=True)
class Ceiling:
    """What was measured, from the first finished batch on: without the start of Ray and of the actors.

    Attributes:
        images: committed rows; timed: those after the first batch; jpeg_bytes: mean size of their files.
        seconds: wall time; cpu_seconds: of all processes.
        stage_ms: milliseconds per image inside the actors.
    """

    images: int
    timed: int
    jpeg_bytes: float
    seconds: float
    cpu_seconds: float
    stage_ms: dict[str, float]


class Free:
    """A step that costs nothing: fills in what the models of one stage would have found."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self._config = config
        y, x = np.mgrid[:MAP_SIDE, :MAP_SIDE] / MAP_SIDE
        self._foreground = np.zeros((HEIGHT, WIDTH), np.bool_)
        self._foreground[40:-40, 80:-80] = True
        rng = np.random.default_rng(0)
        waves = sum(rng.random() * np.sin(9 * rng.random() * x + 9 * rng.random() * y) for _ in range(40))
        grain = cv2.resize(rng.standard_normal((44, 44)), (MAP_SIDE, MAP_SIDE), interpolation=cv2.INTER_LINEAR)
        self._maps: NDArray[np.float16] = (0.3 / (1 + np.exp(-waves - grain)))[None].astype(np.float16)

    def __call__(self, items: Sequence[ImageItem]) -> None:
        load(items, self._config.images, file_threads(self._config))
        for item in items:
            if self.name == "saliency":
                item.dis_mask = self._foreground
            elif self.name == "instances":
                item.foreground, item.foreground_source = self._foreground, "sam+dis"
                item.num_components, item.tiles = 1, (TILE,)
            elif self.name == "tile_scores":
                item.tile_scores = item.component_scores = np.array([0.5], np.float32)
                item.score = 0.5
            else:
                item.tile_maps = self._maps


class Started:
    """Notes time and CPU time of all processes when the first images are finished."""

    def __init__(self, ledger: Any, clock: FamilyClock) -> None:
        self.time, self.cpu, self.done = time.monotonic(), clock.read(), 0
        self._ledger, self._clock = ledger, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Started:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            done = ray.get(self._ledger.read.remote(0)).done
            if done:
                self.time, self.cpu, self.done = time.monotonic(), self._clock.read(), done
                return


class FreeActor(StepActor):
    """The real actor around free steps."""

    def build(self, config: Config, names: Sequence[str]) -> tuple[Step, ...]:
        return tuple(Free(name, config) for name in names)


def measure(images: int, folder: Path, batch: int = BATCH) -> Ceiling:
    """Commit ``images`` rows into ``folder/out`` on this machine's CPUs."""
    jpeg_bytes = draw(folder / "images")
    ids = pa.array([f"{index:07d}" for index in range(images)])
    paths = pa.array([f"images/{index % DISTINCT:03d}.jpg" for index in range(images)])
    pq.write_table(pa.table({"image_id": ids, "image_path": paths}), folder / "manifest.parquet")
    manifest = load_manifest("manifest", str(folder / "manifest.parquet"), object_name="part")
    config = load_config("mini", None, [f"runtime.batch_size={batch}", "runtime.threads=1"])
    output = str(folder / "out")
    run_id = new_run_id(output)
    with connected("local"):
        cpus = int(ray.cluster_resources()["CPU"])
        pool = Pool("fused", tuple(step.name for step in METHOD), cpus, 0.0, 1, 1)
        ledger = start_ledger()
        with FamilyClock() as clock, Started(ledger, clock) as started:
            run_graph(manifest, [pool], config, "f" * 64, PartSink(output, run_id, ROWS_PER_PART), ledger, FreeActor)
        seconds, cpu = time.monotonic() - started.time, clock.read() - started.cpu
        counted = ray.get(ledger.read.remote(0))
    committed = count_rows(manifest, output, "f" * 64)
    if committed.ok != images:
        raise RuntimeError(f"{committed.ok} of {images} images committed")
    stage_ms = {stage: ms / images for stage, ms in counted.stage_ms.items()}
    return Ceiling(images, images - started.done, jpeg_bytes, seconds, cpu, stage_ms)


def draw(folder: Path) -> float:
    """Write the photographs; returns their mean size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sizes = []
    for index in range(DISTINCT):
        image = cv2.resize(rng.integers(40, 200, (6, 8, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for _ in range(12):
            centre = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
            cv2.circle(image, centre, int(rng.integers(5, 60)), [int(v) for v in rng.integers(0, 255, 3)], -1)
        noisy = image + rng.normal(0, 8.7, image.shape)
        _, data = cv2.imencode(".jpg", np.clip(noisy, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        (folder / f"{index:03d}.jpg").write_bytes(data.tobytes())
        sizes.append(len(data))
    return float(np.mean(sizes))


def run(quick: bool) -> list[Row]:
    """100,000 images, or 2,000 when ``quick``."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(2_000 if quick else 100_000, Path(folder))
    rate = found.timed / found.seconds
    return [
        Row(
            "ceiling",
            f"{found.images:,} JPEGs of {found.jpeg_bytes / 1000:.0f} kB through the real graph, steps without models",
            f">= {GOAL} images/s on two cores",
            f"{rate:.0f} images/s, {1000 * found.cpu_seconds / found.timed:.2f} ms CPU per image, all processes",
            None if quick else rate >= GOAL,
            f"batches of {BATCH}, parts of {ROWS_PER_PART} rows; reading and decoding {found.stage_ms['load']:.2f} ms "
            "wall per image in the actors; start-up not counted",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--folder", type=Path, help="kept afterwards; a temporary one when left out")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(options.images, options.folder or Path(temporary), options.batch)
    print(found)
    print(
        f"{found.timed / found.seconds:.1f} images/s, {1000 * found.cpu_seconds / found.timed:.2f} ms CPU per image "
        f"in all processes: {2000 / (1000 * found.cpu_seconds / found.timed):.0f} images/s of two free cores"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
