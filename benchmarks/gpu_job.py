"""Images per second of the whole job on the GPUs of this machine: JPEG files to rows and maps.

    python -m benchmarks.gpu_job --set foreground.point_pruning=dis --set runtime.fused.size=2

The models have their real size and seeded weights, as in P11, and compute in bf16; the photographs are 1500 x 1000 pixels.
Counted is from the end of the first images to that of the last one in an actor, which is before its row is written: without
the start of Ray and of the actors, and without the recording of CUDA graphs if ``--warm`` gives every actor some batches.
In topology ``pools`` the last pool has a backlog by then, and works it off: give thousands of images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from benchmarks import models
from benchmarks.measure import machine
from benchmarks.pictures import jpeg, photograph
from zsad.config import Config, load_config
from zsad.datasets import load_manifest
from zsad.detector import Step, device_of
from zsad.models.sam_mask_generator import MaskGenerator
from zsad.pipeline.actor import StepActor
from zsad.pipeline.execute import start_ledger
from zsad.pipeline.graph import run_graph
from zsad.pipeline.pools import describe, plan_pools
from zsad.pipeline.ray_session import connected
from zsad.pipeline.sink import PartSink
from zsad.steps.instances import Instances
from zsad.steps.saliency import Saliency
from zsad.steps.tile_maps import TileMaps
from zsad.steps.tile_scores import TileScores
from zsad.storage import count_rows, new_run_id

DISTINCT = 16
FINGERPRINT = "f" * 64


@dataclass(frozen=True)
class JobRate:
    """What was measured.

    Attributes:
        pools: the actor pools in words.
        images: how many were timed: those after the first ones.
        seconds: wall time of these.
        stage_ms: wall time of these per image and stage inside the actors.
    """

    pools: str
    images: int
    seconds: float
    stage_ms: dict[str, float]


class RealActor(StepActor):
    """The real actor around seeded models of real size whose answers look trained."""

    size = "real"

    def build(self, config: Config, names: Sequence[str]) -> Sequence[Step]:
        """The steps of these names."""
        size, device, precision = self.size, device_of(config), config.models.precision
        sam = "huge" if size == "real" and config.models.sam.name == "sam-vit-h" else size
        side = models.CLIPSEG_SIDES[size]
        make: dict[str, Callable[[], Step]] = {
            "saliency": lambda: Saliency(models.isnet_model(size, device, precision), config),
            "instances": lambda: Instances(
                MaskGenerator(models.sam_model(models.sam_network(sam), True, device, precision)), config, side
            ),
            "tile_scores": lambda: TileScores(models.clip_model(size, device, precision), config),
            "tile_maps": lambda: TileMaps(models.clipseg_model(size, device, precision), config),
        }
        return [make[name]() for name in names]


class SmallActor(RealActor):
    """The same with small models."""

    size = "small"


class Seen(NamedTuple):
    """When so many images were finished, and the milliseconds of all of them per stage."""

    time: float
    done: int
    stage_ms: dict[str, float]


class Watch:
    """Notes again and again how many images are finished.

    Attributes:
        seen: whenever there were more.
    """

    def __init__(self, ledger: Any) -> None:
        self.seen = [Seen(time.monotonic(), 0, {})]
        self._ledger = ledger
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._note()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self._note()

    def _note(self) -> None:
        counted = ray.get(self._ledger.read.remote(0))
        if counted.done > self.seen[-1].done:
            self.seen.append(Seen(time.monotonic(), counted.done, counted.stage_ms))


def measure(
    images: int,
    warm: int,
    config: Config,
    folder: Path,
    shape: tuple[int, int] = (1000, 1500),
    actor: type[RealActor] = RealActor,
) -> JobRate:
    """Score ``images`` photographs into ``folder/out``, all but the ``warm`` first ones timed.

    Raises:
        RuntimeError: not all were committed, or none was finished later than the first ones.
    """
    (folder / "images").mkdir()
    for index in range(DISTINCT):
        (folder / "images" / f"{index:02d}.jpg").write_bytes(jpeg(photograph(index, *shape)))
    ids = pa.array([f"{index:07d}" for index in range(images)])
    paths = pa.array([f"images/{index % DISTINCT:02d}.jpg" for index in range(images)])
    pq.write_table(pa.table({"image_id": ids, "image_path": paths}), folder / "manifest.parquet")
    work = load_manifest("manifest", str(folder / "manifest.parquet"), object_name="part")
    output = str(folder / "out")
    with connected("local"):
        pools = plan_pools(config, ray.cluster_resources(), actor_gib=1)
        ledger = start_ledger()
        with Watch(ledger) as watch:
            run_graph(work, pools, config, FINGERPRINT, PartSink(output, new_run_id(output), 32), ledger, actor)
    committed = count_rows(work, output, FINGERPRINT)
    if committed.ok != images:
        raise RuntimeError(f"{committed.ok} of {images} images committed: {dict(committed.reasons)}")
    start, end = next(seen for seen in watch.seen if seen.done >= warm), watch.seen[-1]
    timed = end.done - start.done
    if not timed:
        raise RuntimeError(f"{images} images are too few to time those after the first {warm}; give more")
    stage_ms = {stage: (ms - start.stage_ms.get(stage, 0.0)) / timed for stage, ms in end.stage_ms.items()}
    return JobRate(describe(pools), timed, end.time - start.time, stage_ms)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--warm", type=int, default=128, help="the first images, which do not count")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="over vand2023 in bf16"
    )
    parser.add_argument("--sam", choices=["sam-vit-b", "sam-vit-h"], default="sam-vit-b")
    options = parser.parse_args(arguments)
    if not 0 < options.warm < options.images:
        parser.error(f"--warm {options.warm} of --images {options.images}: expected fewer, at least 1")
    for setting in options.set:
        if setting.startswith(("models.", "runtime.compile")):
            parser.error(f"--set {setting}: the models are fixed, but for --sam")
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here, and on a CPU models of this size take half a minute per image")
    config = load_config("vand2023", None, ["models.precision=bf16", f"models.sam.name={options.sam}", *options.set])
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.images, options.warm, config, Path(folder))
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in found.stage_ms.items())
    print(machine())
    print(f"{found.pools}: {found.images / found.seconds:.1f} images/s over {found.images}; ms per image: {stages}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
