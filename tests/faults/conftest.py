"""One small collection and its uninterrupted run, which every run after a fault must equal."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.faults.faulty import Faults
from tests.pipeline.conftest import draw
from tools.processes import descendants
from zsad.pipeline.score import ScoreOptions, score

SETTINGS = (
    *(f"models.{family}.name=random-{family}" for family in ("isnet", "sam", "clip", "clipseg")),
    # SAM is the slowest step and no fault of these is its own.
    "foreground.source=dis",
    "foreground.binarise_threshold=0.58",
    "foreground.closing_radius=0",
    "runtime.batch_size=2",
    "runtime.rows_per_part=2",
    "runtime.fused.size=1",
)
ZSAD = str(Path(sys.executable).parent / "zsad")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Folder of 24 small images, one of them cut off."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(23):
        cv2.imwrite(str(folder / f"{index:02d}.png"), draw(rng, 100 + 3 * index, 140 - 2 * index, parts=2))
    (folder / "cut.png").write_bytes((folder / "00.png").read_bytes()[:300])
    return folder


def options(images, output, **changed):
    given = {"dataset": "folder", "object_name": "disc", "preset": "mini", "overrides": SETTINGS}
    return ScoreOptions(root=str(images), output=str(output), **given | {"max_error_fraction": 0.5} | changed)


def run(images, output, **changed):
    """Score in this process; returns the summary and what was printed."""
    stream = io.StringIO()
    return score(options(images, output, **changed), stream), stream.getvalue()


def arguments(images, output, *extra):
    """Of ``zsad``, for the same run as ``run``."""
    given = ["score", "--dataset", "folder", "--object", "disc", "--preset", "mini", "--max-error-fraction", "0.5"]
    given += [part for setting in SETTINGS for part in ("--set", setting)]
    return [*given, "--root", str(images), "--output", str(output), *extra]


@pytest.fixture(scope="session")
def reference(ray_local, images, tmp_path_factory):
    """Output of the uninterrupted run."""
    output = tmp_path_factory.mktemp("reference") / "out"
    summary, _ = run(images, output)
    assert (summary.images, summary.errors, summary.exit_code) == (24, 1, 0)
    return output


class Driver:
    """A ``zsad score`` with faults in a process group of its own."""

    def __init__(self, images, output, faults, *extra, **environment):
        script = Path(__file__).parent / "faulty.py"
        repository = script.parent.parent.parent
        self.output = Path(output)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments(images, output, *extra)],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=repository,
            env=os.environ
            | {"PYTHONPATH": str(repository), "FAULTS": json.dumps(asdict(faults) | environment.pop("also", {}))}
            | environment,
            start_new_session=True,
        )

    @property
    def pid(self):
        return self.process.pid

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def parts(self):
        return sorted(self.output.glob("predictions/part-*.parquet"))

    def wait_until(self, condition, seconds=180):
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            assert time.monotonic() < end, f"waited too long:\n{self.text()}"
            time.sleep(0.05)

    def wait_for_more_parts(self, number):
        target = len(self.parts()) + number
        self.wait_until(lambda: len(self.parts()) >= target)

    def wait(self, seconds=180):
        return self.process.wait(timeout=seconds)

    def end(self):
        """Whatever is left of it."""
        if self.process.poll() is None:
            left = descendants(self.pid)
            self.process.kill()
            self.process.wait()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.log.close()


@pytest.fixture
def start(images):
    """Starts drivers, which end with the test."""
    started = []

    def start_one(output, faults=None, *extra, **environment):
        started.append(Driver(images, output, faults or Faults(), *extra, **environment))
        return started[-1]

    yield start_one
    for driver in started:
        driver.end()
