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
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import ceiling, models
from benchmarks.measure import FamilyClock, family, resident_bytes, shared_bytes
from benchmarks.pictures import jpeg, photograph
from benchmarks.rows import Row
from zsad.config import Config, load_config
from zsad.datasets import load_manifest
from zsad.detector import METHOD, Step
from zsad.models.weights import all_trained
from zsad.pipeline.actor import StepActor
from zsad.pipeline.cluster import connected
from zsad.pipeline.execute import start_ledger
from zsad.pipeline.graph import run_graph
from zsad.pipeline.pools import Pool
from zsad.pipeline.sink import PartSink
from zsad.steps.instances import Instances
from zsad.steps.saliency import Saliency
from zsad.steps.tile_maps import TileMaps
from zsad.steps.tile_scores import TileScores
from zsad.storage import count_rows, new_run_id

EFFICIENCY, NON_MODEL, GROWTH = 0.92, 0.060, 1.10
METER = "ZSAD_BENCHMARK_METER"
FINGERPRINT = "f" * 64
FUSED = Pool("fused", tuple(step.name for step in METHOD), 1, 0.0, 1, 1)


class MeteredActor(StepActor):
    """The real actor, which adds up its images and its forwards' CPU time and leaves the sums in ``$METER``."""

    size = "small"

    def build(self, config: Config, names: Sequence[str]) -> Sequence[Step]:
        """The preset's models where they are trained, else seeded ones whose answers look trained."""
        self.images, self.forwards, self.shaping = 0, 0.0, 0.0
        shaped = self.size != "small" or not all_trained(config.models)
        if shaped:
            network = models.sam_network(self.size)
            steps: Sequence[Any] = (
                Saliency(models.isnet_model(self.size), config),
                Instances(models.sam_model(network), config, models.CLIPSEG_SIDES[self.size]),
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
        tile_maps.logits = self._metered(tile_maps.logits)
        return steps

    def __call__(self, batch: pa.Table) -> pa.Table:
        """As the real one."""
        result = super().__call__(batch)
        self.images += result.num_rows
        # Replaced as a whole: the driver reads it at any moment.
        unfinished = Path(f"{os.environ[METER]}.new")
        unfinished.write_text(f"{self.images} {self.forwards} {self.shaping} {os.getpid()}")
        unfinished.replace(os.environ[METER])
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
        return [_overhead(MeteredActor, 4, 8, (300, 450))]
    return [_overhead(HalfActor, 4, 8, (1000, 1500)), _overhead(MeteredActor, 16, 48, (1000, 1500))]


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
    """The cost of an image once the first ``warm`` ones are done, until all ``images`` are committed."""
    small = actor.size == "small"
    config = load_config("mini" if small else "vand2023", None, [f"runtime.batch_size={4 if small else 2}"])
    with tempfile.TemporaryDirectory(prefix="zsad-") as name:
        folder = Path(name)
        manifest = _collection(folder, images, shape)
        os.environ[METER] = str(folder / "meter")
        with connected("local"):
            total, forwards, in_actor, in_driver = _run(actor, manifest, config, str(folder / "out"), warm)
    share, beside = forwards / total, total - forwards
    met = beside <= NON_MODEL if small else share >= EFFICIENCY
    trained = "trained" if small and all_trained(config.models) else "random"
    return Row(
        "P7",
        f"{'mini' if small else 'half-size'} models ({trained}), Ray job, {shape[1]} x {shape[0]} JPEG to Parquet",
        f"non-model cost <= {1e3 * NON_MODEL:.0f} ms per image" if small else "efficiency >= 85 %, then 92 %",
        f"{100 * share:.1f} % ({total:.3f} s per image, {forwards:.3f} in forwards, {1e3 * beside:.0f} ms beside them)",
        None if shape[0] < 1000 else met,
        f"CPU time of all processes of the session, from the end of image {warm} to the commit of image {images}; beside "
        f"the forwards {1e3 * (in_actor - forwards):.0f} ms are the actor's, {1e3 * in_driver:.0f} ms the driver's, and "
        f"{1e3 * (total - in_actor - in_driver):.0f} ms Ray's own processes', which cost by the second and by the run "
        "rather than by the image",
    )


def _run(actor: type[StepActor], work: pa.Table, config: Config, output: str, warm: int) -> tuple[float, ...]:
    """CPU seconds per image of all processes (without what shapes random answers), the forwards, actor and driver."""
    at_warm: list[tuple[float, ...]] = []
    over = threading.Event()
    with FamilyClock() as clock:

        def await_warm() -> None:
            # All it costs lies before the moment that counts.
            while not over.wait(0.02):
                if (now := _meter())[0] >= warm:
                    at_warm.append((clock.read(), clock.read_of(int(now[3])), clock.read_of(os.getpid()), *now))
                    return

        waiting = threading.Thread(target=await_warm, daemon=True)
        waiting.start()
        # Every batch is committed at once, so that the process that writes is warm as well.
        sink = PartSink(output, new_run_id(output), config.runtime.batch_size)
        try:
            run_graph(work, [FUSED], config, FINGERPRINT, sink, start_ledger(), actor)
        finally:
            over.set()
            waiting.join()
        now = _meter()
        at_end = clock.read(), clock.read_of(int(now[3])), clock.read_of(os.getpid()), *now
    committed = count_rows(work, output, FINGERPRINT)
    if committed.ok != work.num_rows:
        raise RuntimeError(f"{committed.ok} of {work.num_rows} images committed: {dict(committed.reasons)}")
    if not at_warm or at_end[3] <= at_warm[0][3]:
        raise RuntimeError(f"The end of image {warm} was not seen before that of image {work.num_rows}.")
    differences = (now - then for now, then in zip(at_end, at_warm[0], strict=True))
    total, in_actor, in_driver, images, forwards, shaping, _ = differences
    return (total - shaping) / images, forwards / images, (in_actor - shaping) / images, in_driver / images


def _meter() -> tuple[float, ...]:
    """Images, CPU seconds of the forwards and of the shaping, and the process, of the one actor so far."""
    path = Path(os.environ[METER])
    return tuple(map(float, path.read_text().split())) if path.exists() else (0.0, 0.0, 0.0, 0.0)


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
