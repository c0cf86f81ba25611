"""P7 and P10: what the job costs beside its models, and whether its memory grows with the collection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks import ceiling, models
from benchmarks.measure import FamilyClock, family, resident_bytes, shared_bytes
from benchmarks.pictures import jpeg, photograph
from benchmarks.rows import Row
from zsad.config import Config, load_config
from zsad.datasets import load_manifest
from zsad.detector import METHOD, Step
from zsad.models.sam_mask_generator import MaskGenerator
from zsad.models.weights import all_trained
from zsad.pipeline.actor import StepActor
from zsad.pipeline.execute import start_ledger
from zsad.pipeline.graph import run_graph
from zsad.pipeline.pools import Pool, plan_pools
from zsad.pipeline.ray_session import connected
from zsad.pipeline.sink import PartSink
from zsad.steps.instances import Instances
from zsad.steps.saliency import Saliency
from zsad.steps.tile_maps import TileMaps
from zsad.steps.tile_scores import TileScores
from zsad.storage import count_rows, new_run_id

EFFICIENCY, NON_MODEL, GROWTH = 0.92, 0.060, 1.10
ACTORS = 2
"""Of P7: as many as the job has on two cores."""
METER = "ZSAD_BENCHMARK_METER"
FINGERPRINT = "f" * 64
FUSED = Pool("fused", tuple(step.name for step in METHOD), 1, 0.0, 1, 1)


class MeteredActor(StepActor):
    """The real actor, which adds up its images and its forwards' CPU time and writes the sums into a file in ``$METER``."""

    size = "small"

    def build(self, config: Config, names: Sequence[str]) -> Sequence[Step]:
        """The preset's models where they are trained, else seeded ones whose answers look trained."""
        self.images, self.forwards, self.shaping = 0, 0.0, 0.0
        shaped = self.size != "small" or not all_trained(config.models)
        if shaped:
            network = models.sam_network(self.size)
            steps: Sequence[Any] = (
                Saliency(models.isnet_model(self.size), config),
                Instances(MaskGenerator(models.sam_model(network)), config, models.CLIPSEG_SIDES[self.size]),
                TileScores(models.clip_model(self.size), config),
                TileMaps(models.clipseg_model(self.size), config),
            )
        else:
            steps = super().build(config, names)
        saliency, instances, tile_scores, tile_maps = (step.model for step in steps)
        network = instances.network
        for module in (network.image_encoder, network.prompt_encoder):
            module.forward = self._metered(module.forward)
        for module, inside in ((saliency.network, "network"), (network.mask_decoder, "decoder")):
            if shaped:
                inner = getattr(module, inside)
                inner.forward = self._metered(inner.forward, forwards=1, shaping=-1)
                module.forward = self._metered(module.forward, forwards=0, shaping=1)
            else:
                module.forward = self._metered(module.forward)
        tile_scores.module.encode_image = self._metered(tile_scores.module.encode_image)
        tile_maps.encode_tiles = self._metered(tile_maps.encode_tiles)
        tile_maps.decode_tiles = self._metered(tile_maps.decode_tiles)
        return steps

    def __call__(self, batch: pa.Table) -> pa.Table:
        """As the real one."""
        result = super().__call__(batch)
        self.images += result.num_rows
        with Path(os.environ[METER], str(os.getpid())).open("a") as meter:
            meter.write(f"{time.monotonic()} {self.images} {self.forwards} {self.shaping} {time.process_time()}\n")
        return result

    def _metered(self, forward: Callable[..., Any], forwards: int = 1, shaping: int = 0) -> Callable[..., Any]:
        """``forward``, its CPU time counted as one of the forwards, or as what only shapes their answers."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return forward(*args, **kwargs)
            finally:
                seconds = time.thread_time() - start
                self.forwards += forwards * seconds
                self.shaping += shaping * seconds

        return timed


class HalfActor(MeteredActor):
    """With models of half the width and depth."""

    size = "half"


def efficiency(quick: bool) -> list[Row]:
    """P7: CPU time of the forwards against CPU time of everything, from encoded files to committed parts."""
    if quick:
        return [_overhead(MeteredActor, 8, 48, (300, 450))]
    return [_overhead(HalfActor, 2, 20, (1000, 1500)), _overhead(MeteredActor, 16, 112, (1000, 1500))]


def memory(quick: bool, lengths: tuple[int, int] = (200, 2000)) -> list[Row]:
    """P10: the highest private memory of driver and workers and the object store's, for two lengths."""
    if quick:
        lengths = (16, 32)
    peaks = []
    for images in lengths:
        done = subprocess.run(  # noqa: S603 - this very module
            [sys.executable, "-m", "benchmarks.job", str(images)], capture_output=True, text=True, check=True
        )
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    growth = {name: peaks[1][name] / max(peaks[0][name], 1) for name in peaks[0]}
    return [
        Row(
            "P10",
            f"peak memory, {lengths[1]} against {lengths[0]} images",
            f"<= {GROWTH:g}x",
            ", ".join(f"{name} {peaks[1][name] / 2**20:.0f} MiB ({ratio:.2f}x)" for name, ratio in growth.items()),
            None if quick else max(growth.values()) <= GROWTH,
            "the real graph with steps that cost nothing (benchmarks/ceiling.py); a model's memory depends on its "
            "batch, not on the collection",
        )
    ]


def _overhead(actor: type[MeteredActor], warm: int, images: int, shape: tuple[int, int]) -> Row:
    """The cost of an image once every actor has done ``warm`` ones, until all ``images`` are committed."""
    small = actor.size == "small"
    given = {"device": "cpu", "topology": "fused", "fused.size": ACTORS}
    if not small:
        # Eight would take minutes.
        given["batch_size"] = 2
    overrides = [f"runtime.{name}={value}" for name, value in given.items()]
    config = load_config("mini" if small else "vand2023", None, overrides)
    with tempfile.TemporaryDirectory(prefix="zsad-") as name:
        folder = Path(name)
        manifest = _collection(folder, images, shape)
        os.environ[METER] = str(folder / "meter")
        (folder / "meter").mkdir()
        with connected("local"):
            cost = _run(actor, manifest, config, str(folder / "out"), warm)
    share, beside = cost.forwards / cost.total, cost.total - cost.forwards
    met = beside <= NON_MODEL if small else share >= EFFICIENCY
    trained = "trained" if small and all_trained(config.models) else "random"
    return Row(
        "P7",
        f"{'mini' if small else 'half-size'} models ({trained}), Ray job, {shape[1]} x {shape[0]} JPEG to Parquet",
        f"non-model cost <= {1e3 * NON_MODEL:.0f} ms per image" if small else "efficiency >= 85 %, then 92 %",
        f"{100 * share:.1f} % ({cost.total:.3f} s per image, {cost.forwards:.3f} in forwards, {1e3 * beside:.0f} ms "
        "beside them)",
        None if shape[0] < 1000 else met,
        f"CPU time of all processes of the session, {ACTORS} actors of one thread, batches of "
        f"{config.runtime.batch_size}, {cost.images} images: of each actor "
        f"after its first {warm} images, of all else from then on, until the last commit; the forwards are timed within "
        f"the job; beside them {1e3 * (cost.in_actors - cost.forwards):.0f} ms are the actors', "
        f"{1e3 * cost.in_driver:.0f} ms the driver's, and "
        f"{1e3 * (cost.total - cost.in_actors - cost.in_driver):.0f} ms those of Ray's processes, the ledger and the writer",
    )


@dataclass(frozen=True)
class _Cost:
    """CPU seconds per image (without what shapes random answers), and of how many images."""

    total: float
    forwards: float
    in_actors: float
    in_driver: float
    images: int


def _run(actor: type[StepActor], work: pa.Table, config: Config, output: str, warm: int) -> _Cost:
    """Run the graph; raises RuntimeError when its images are not committed, or too few to tell the cost of one."""
    pool = replace(plan_pools(config, ray.cluster_resources(), 1)[0], torch_threads=1)
    readings: list[tuple[float, float, float]] = []
    over = threading.Event()
    with FamilyClock() as clock:

        def read() -> None:
            """When it is, and CPU seconds so far of the driver and of all processes but it and the actors."""
            total, driver = clock.read(), clock.read_of(os.getpid())
            readings.append((time.monotonic(), driver, total - driver - sum(map(clock.read_of, _meters()))))

        def await_warm() -> None:
            # All it costs lies before the moment that counts.
            while not over.wait(0.02):
                meters = _meters().values()
                is_writer_warm = any(Path(output, "predictions").glob("*.parquet"))
                if is_writer_warm and len(meters) == ACTORS and all(counts[-1].images >= warm for counts in meters):
                    read()
                    return

        waiting = threading.Thread(target=await_warm, daemon=True)
        waiting.start()
        # So few rows that the process that writes is soon warm as well.
        sink = PartSink(output, new_run_id(output), min(16, work.num_rows // 6))
        try:
            run_graph(work, [pool], config, FINGERPRINT, sink, start_ledger(), actor)
        finally:
            over.set()
            waiting.join()
        read()
        meters = _meters()
        # /proc is only looked at now and then; an actor that has ended was last seen some time before.
        at_end = {pid: max(clock.read_of(pid), counts[-1].seconds) for pid, counts in meters.items()}
    committed = count_rows(work, output, FINGERPRINT)
    if committed.ok != work.num_rows:
        raise RuntimeError(f"{committed.ok} of {work.num_rows} images committed: {dict(committed.reasons)}")
    if len(readings) < 2:
        done = [counts[-1].images for counts in meters.values()]
        raise RuntimeError(
            f"{done} images of the actors, {warm} of each and one part were not done before the last one."
        )
    spent = []
    for pid, counts in meters.items():
        # From the end of a batch on, so that no forward is cut in two.
        start = next(count for count in counts if count.images >= warm)
        end = counts[-1]._replace(seconds=at_end[pid])
        spent.append(_Count(*(now - then for then, now in zip(start, end, strict=True))))
    _, images, forwards, shaping, seconds = map(sum, zip(*spent, strict=True))
    forwards, in_actors = forwards / images, (seconds - shaping) / images
    since_warm = sum(counts[-1].images - _images_at(counts, readings[0][0]) for counts in meters.values())
    _, in_driver, in_others = (now - then for then, now in zip(*readings, strict=True))
    in_driver, in_others = in_driver / since_warm, in_others / since_warm
    return _Cost(in_actors + in_driver + in_others, forwards, in_actors, in_driver, int(images))


class _Count(NamedTuple):
    """Of an actor at the end of a batch: when, images, and CPU seconds of forwards, shaping and everything."""

    time: float
    images: float
    forwards: float
    shaping: float
    seconds: float


def _images_at(counts: list[_Count], moment: float) -> float:
    """Images that an actor had done by then, those of the batch that it was at in proportion."""
    times, images = [count.time for count in counts], [count.images for count in counts]
    return float(np.interp(moment, times, images))


def _meters() -> dict[int, list[_Count]]:
    """Process -> what its actor had counted at the end of each batch so far."""
    found = {}
    for path in Path(os.environ[METER]).iterdir():
        # A line that is just being written has no end yet.
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if lines:
            found[int(path.name)] = [_Count(*map(float, line.split())) for line in lines]
    return found


def _collection(folder: Path, count: int, shape: tuple[int, int]) -> pa.Table:
    (folder / "images").mkdir()
    for index in range(count):
        (folder / "images" / f"{index:03d}.jpg").write_bytes(jpeg(photograph(index, *shape)))
    return load_manifest("folder", str(folder / "images"), object_name="part")


def peak_memory(images: int) -> dict[str, int]:
    """Bytes at the highest: the driver and the largest worker (private), and the object store."""
    peaks = {"driver": 0, "largest worker": 0, "object store": 0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            others = [pid for pid in family() if pid != os.getpid()]
            names = {pid: Path(f"/proc/{pid}/comm") for pid in others}
            raylets = [pid for pid, comm in names.items() if comm.exists() and comm.read_text().strip() == "raylet"]
            for name, found in (
                ("driver", [resident_bytes(os.getpid())]),
                ("largest worker", [resident_bytes(pid) for pid in others if pid not in raylets]),
                ("object store", [shared_bytes(pid) for pid in raylets]),
            ):
                peaks[name] = max([peaks[name], *found])

    with tempfile.TemporaryDirectory(prefix="zsad-") as name:
        folder = Path(name)
        ceiling.draw(folder / "images")
        ids = pa.array([f"{index:07d}" for index in range(images)])
        paths = pa.array([f"images/{index % ceiling.DISTINCT:03d}.jpg" for index in range(images)])
        pq.write_table(pa.table({"image_id": ids, "image_path": paths}), folder / "manifest.parquet")
        manifest = load_manifest("manifest", str(folder / "manifest.parquet"), object_name="part")
        config = load_config("mini", None, ["runtime.threads=1"])
        output = str(folder / "out")
        with connected("local"):
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            sink = PartSink(output, new_run_id(output), 64)
            run_graph(manifest, [FUSED], config, FINGERPRINT, sink, start_ledger(), ceiling.FreeActor)
            done.set()
            watcher.join()
    return peaks


if __name__ == "__main__":
    print(json.dumps(peak_memory(int(sys.argv[1]))))
