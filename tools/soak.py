"""Kill a run again and again until it has survived N kills: ``make soak``, or ``python -m tools.soak --kills 40``.

The job runs on two Ray nodes with the mini preset. At random moments, most of them after something new was
committed, the driver (killed, terminated or interrupted), an actor or a node goes. A stopped driver is started again
with the same command; a finished run is compared with an uninterrupted one and begun anew elsewhere, until the kills
are used up. Exits with 1 on any difference.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from ray.cluster_utils import Cluster

from tools.processes import alive, descendants, map_workers
from tools.same_run import differences
from zsad.datasets.synthetic import write_synthetic_visa

KINDS = {"driver killed": 12, "driver terminated": 4, "driver interrupted": 4, "actor killed": 12, "node killed": 8}
"""What happens -> how often, relative to the others."""
WEIGHTS = [number / sum(KINDS.values()) for number in KINDS.values()]
SIGNALS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "interrupted": signal.SIGINT}
STOPPED = (130, 143, *(-number for number in SIGNALS.values()))
"""Exit codes of a driver that was stopped; negative where the signal came before Python could handle it."""
AT_START = 0.2
"""Share of the kills that may fall while nothing was committed yet since the last one; the others wait for that."""
LONGEST_START, LONGEST_PAUSE = 30.0, 8.0
"""Seconds, at most: to such a kill from the last one, and to any other from the first part that is committed."""
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100_000_000}


class Soak:
    """A cluster of two nodes, and a job on it that is not left in peace."""

    def __init__(self, folder: Path, seed: int, images_per_kind: int) -> None:
        self.random = np.random.default_rng(seed)
        self.folder = folder
        self.log = (folder / "drivers.log").open("wb")
        kinds = ["metal_washer", "ceramic_tile"]
        half = images_per_kind // 2
        self.images = write_synthetic_visa(folder / "visa", kinds=kinds, normal=half, anomalous=half, seed=seed)
        self.cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        self.cluster.add_node(**NODE)
        self.kills: Counter[str] = Counter()
        self.amid = 0

    def close(self) -> None:
        """Stop the nodes."""
        self.cluster.shutdown()
        self.log.close()

    def driver(self, output: Path) -> subprocess.Popen[bytes]:
        """The job, as a process group of its own."""
        given = ["score", "--dataset", "visa", "--root", str(self.images), "--output", str(output)]
        given += ["--preset", "mini", "--address", self.cluster.address]
        for setting in ("shared_filesystem=true", "batch_size=2", "rows_per_part=2", "fused.size=2"):
            given += ["--set", f"runtime.{setting}"]
        command = [sys.executable, "-m", "zsad.cli", *given]
        return subprocess.Popen(  # noqa: S603
            command, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def run_in_peace(self, output: Path) -> None:
        """One run that nobody stops."""
        if self.driver(output).wait() != 0:
            raise RuntimeError(f"The uninterrupted run failed; see {self.log.name}.")

    def run_under_fire(self, output: Path, kills: int) -> None:
        """Start the job until it has finished; up to ``kills`` more times something goes."""
        job = self.driver(output)
        while True:
            before = parts(output)
            if self.kills.total() == kills:
                code = job.wait()
            elif self.pause(job, output):
                kind = str(self.random.choice(list(KINDS), p=WEIGHTS))
                now = parts(output)
                if self.kill(kind, job):
                    self.kills[kind] += 1
                    self.amid += now > before
                    told = f"{self.kills.total():3d} {kind}, {now} parts, {now - before} of them new"
                    print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)
                if not kind.startswith("driver"):
                    continue
                code = job.wait(60)
            else:
                code = job.wait()
            # Also with _SUCCESS just before the end: whether it is true shows in the comparison.
            if code in (0, 3) or (output / "_SUCCESS").exists():
                return
            if code not in STOPPED:
                raise RuntimeError(f"The driver ended with {code}; see {self.log.name}.")
            job = self.driver(output)

    def pause(self, job: subprocess.Popen[bytes], output: Path) -> bool:
        """Wait for the next kill; False when the job ended before."""
        if self.random.random() < AT_START:
            return _runs_for(job, self.random.uniform(0, LONGEST_START))
        before = parts(output)
        while parts(output) == before:
            if not _runs_for(job, 0.1):
                return False
        return _runs_for(job, self.random.uniform(0, LONGEST_PAUSE))

    def kill(self, kind: str, job: subprocess.Popen[bytes]) -> bool:
        """Whether there was something to kill."""
        what, how = kind.split()
        if what == "driver":
            os.killpg(job.pid, SIGNALS[how])
        elif what == "actor":
            found = map_workers(alive(descendants(os.getpid())))
            if not found:
                return False
            os.kill(int(self.random.choice(found)), signal.SIGKILL)
        else:
            (node,) = self.cluster.worker_nodes
            self.cluster.remove_node(node, allow_graceful=False)
            self.cluster.add_node(**NODE)
        return True


def parts(output: Path) -> int:
    """Number of committed parts."""
    return len(list(output.glob("predictions/part-*.parquet")))


def _runs_for(job: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the job still runs after so long."""
    try:
        job.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def main() -> int:
    """Run the soak; 0 when every table was the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=40, help="images per kind of part, of which there are two")
    given = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Ray's sockets below it must fit into 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="soak", dir="/tmp"))
    print(f"seed {given.seed}, {given.kills} kills, 2 x {given.images} images, in {folder}", flush=True)
    start = time.monotonic()
    soak = Soak(folder, given.seed, given.images)
    rounds, found = 0, []
    try:
        soak.run_in_peace(folder / "reference")
        print(f"uninterrupted run: {time.monotonic() - start:.0f} s", flush=True)
        while soak.kills.total() < given.kills and not found:
            output = folder / f"out-{rounds}"
            soak.run_under_fire(output, given.kills)
            rounds += 1
            found = differences(output, folder / "reference")
            print(f"round {rounds}: {'; '.join(found) or 'the same table and maps'}", flush=True)
    finally:
        soak.close()
    kinds = ", ".join(f"{number} {kind}" for kind, number in soak.kills.items())
    result = "DIFFERENT" if found else "same"
    minutes = (time.monotonic() - start) / 60
    print(f"{soak.amid} of the kills fell after something had been committed since the last one")
    print(f"{soak.kills.total()} kills ({kinds}) over {rounds} rounds, seed {given.seed}, {minutes:.1f} min: {result}")
    if not found:
        shutil.rmtree(folder)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
