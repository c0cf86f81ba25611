"""What the graph asks of Ray for its actors."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.ceiling import FreeActor
from zsad.config import load_config
from zsad.datasets import load_manifest
from zsad.detector import METHOD
from zsad.pipeline import ray_session
from zsad.pipeline.execute import start_ledger
from zsad.pipeline.graph import run_graph
from zsad.pipeline.pools import Pool
from zsad.pipeline.sink import PartSink


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators decide for themselves")
def test_with_the_settings_of_actors_glibc_keeps_the_memory_that_a_batch_frees():
    code = (
        "import resource, threading\n"
        f"def batch(): [bytearray({ray_session._KEPT_MIB // 2} << 20) for _ in range(3)]\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        # Ray calls actors in threads, each of which glibc gives an arena of its own by default.
        "def work(): batch(); before = faults(); batch(); print(faults() - before)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()"
    )
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    fresh = []
    for environment in (plain | ray_session.MALLOC_SETTINGS, plain):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        fresh.append(int(done.stdout))
    # Of 4 KiB, or 2 MiB where the system gives them unasked.
    assert fresh[0] <= 10 < fresh[1]


def test_actors_start_with_the_environment_that_they_are_given(ray_local, tmp_path):
    environment = tmp_path / "environment"

    class Actor(FreeActor):
        def build(self, config, names):
            # Not os.environ: glibc has read it before Python could change it.
            environment.write_bytes(Path("/proc/self/environ").read_bytes())
            return super().build(config, names)

    (tmp_path / "images").mkdir()
    Image.new("RGB", (96, 96)).save(tmp_path / "images" / "one.png")
    work = load_manifest("folder", str(tmp_path / "images"), object_name="part")
    pool = Pool("fused", tuple(step.name for step in METHOD), 1, 0.0, 1, 1)
    sink = PartSink(str(tmp_path / "out"), "run", 16)
    config, ledger = load_config("mini"), start_ledger()
    run_graph(work, [pool], config, "f" * 64, sink, ledger, Actor, environment=ray_session.MALLOC_SETTINGS)
    seen = dict(line.split("=", 1) for line in environment.read_text().split("\0") if "=" in line)
    assert seen.items() >= ray_session.MALLOC_SETTINGS.items()
