"""Several images at once on the host."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from zsad.config import ModelConfig, load_config
from zsad.models import clip, clipseg
from zsad.resize import Padded
from zsad.threads import begun_in_threads, file_threads, host_threads, in_threads


def test_results_come_in_order_and_as_many_calls_go_on_as_there_are_threads():
    together = threading.Barrier(3)

    def work(value: int, factor: int) -> int:
        together.wait(20)
        return value * factor

    assert in_threads(work, range(6), [10] * 6, threads=3) == [0, 10, 20, 30, 40, 50]


def test_an_error_is_raised_once_no_other_call_goes_on():
    ended = []

    def work(value: int) -> None:
        if value == 0:
            raise ValueError("the first")
        threading.Event().wait(0.2)
        ended.append(value)

    with pytest.raises(ValueError, match="the first"):
        in_threads(work, range(4), threads=2)
    assert sorted(ended) == [1, 2, 3]


def test_one_thread_is_the_callers():
    names = in_threads(lambda _: threading.current_thread(), range(3), threads=1)
    assert names == [threading.current_thread()] * 3


def test_what_is_begun_comes_in_order_and_what_nobody_wants_any_more_is_not_done():
    begun, go_on = [], threading.Event()

    def work(value: int) -> int:
        begun.append(value)
        if value > 1:
            go_on.wait(20)
        return 10 * value

    results = begun_in_threads(work, range(50), threads=2)
    assert [next(results), next(results)] == [0, 10]
    results.close()
    go_on.set()
    # A later call begins when those before it have ended.
    in_threads(work, range(2), threads=2)
    assert set(begun) < {*range(8)}


def test_a_process_that_was_forked_has_threads_of_its_own():
    assert in_threads(str, range(2), threads=2) == ["0", "1"]
    code = "from zsad.threads import in_threads as f; import os; f(str, [1, 2], threads=2); pid = os.fork();"
    code += "print(f(str, [3, 4], threads=2)) if pid == 0 else os.waitpid(pid, 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "['3', '4']\n"


@pytest.mark.parametrize(("cores", "chosen"), [(1, 2), (4, 4), (64, 8)])
def test_threads_beside_a_gpu_are_as_many_as_the_process_has_cores_within_bounds(cores, chosen, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    config = load_config("mini")
    assert (file_threads(config), host_threads(config, "cuda"), host_threads(config, "cpu")) == (2, chosen, 1)
    config = load_config("mini", None, ["runtime.threads=5"])
    assert (file_threads(config), host_threads(config, "cuda"), host_threads(config, "cpu")) == (5, 5, 1)


@pytest.mark.parametrize("family", [clip, clipseg])
def test_tiles_resized_in_threads_are_those_resized_alone(family):
    model = family.load(ModelConfig(name=f"random-{family.__name__.rpartition('.')[2]}"))
    pixels = np.random.default_rng(0).integers(0, 256, (13, 300, 400, 3), np.uint8)
    tiles = [one[: 200 + 5 * i, 7 * i : 200 + 12 * i] for i, one in enumerate(pixels)]
    tiles.append(Padded(pixels[0], 100, 0, 0, 0))
    alone = torch.cat([model.preprocess([tile]) for tile in tiles])
    assert torch.equal(model.preprocess(tiles, threads=4), alone)
