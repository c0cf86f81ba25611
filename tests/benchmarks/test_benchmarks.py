"""The benchmarks still agree with their baselines (no time is judged here), and report honestly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks.baselines import segmentation as stock
from benchmarks.measure import FamilyClock, Stopwatch, extra_memory, fastest, machine
from benchmarks.pictures import photograph, six_tiles
from benchmarks.rows import Row, as_json, markdown
from zsad.models.sam_mask_generator import Annotation

QUICK = ("P1", "P2", "P3", "P4", "P5", "P6", "P8", "P9", "batch")
"""P7 and P10 start Ray; ``python -m benchmarks --quick`` runs them as well."""


@pytest.mark.parametrize("goal", QUICK)
def test_ours_equals_the_baseline(goal):
    rows = benchmarks_main.measure(goal, quick=True)
    assert rows
    assert all(row.goal == goal and row.measured for row in rows)
    assert not [row for row in rows if row.met is False]
    assert any(row.met for row in rows)


def test_a_benchmark_that_fails_is_a_goal_that_is_not_met(monkeypatch, capsys):
    def broken(quick):
        raise ValueError("no such thing")

    monkeypatch.setattr(benchmarks_main, "GOALS", {"P0": "scoring:broken"})
    monkeypatch.setattr(benchmarks_main.importlib, "import_module", lambda name: types.SimpleNamespace(broken=broken))
    (row,) = benchmarks_main.measure("P0", quick=True)
    assert row.met is False and "no such thing" in row.measured
    assert benchmarks_main.main(["--quick", "--only", "P0"]) == 1
    assert "| P0 |" in capsys.readouterr().out


def test_results_are_written_as_markdown_and_json(monkeypatch, tmp_path):
    rows = [Row("P1", "a", "b", "c", True), Row("P2", "a", "b", "c", None, "a note")]
    monkeypatch.setattr(benchmarks_main, "GOALS", {"P1": "rows:x"})
    monkeypatch.setattr(benchmarks_main, "measure", lambda goal, quick: rows)
    assert benchmarks_main.main(["--only", "P1", "--output", str(tmp_path / "R.md")]) == 0
    text = (tmp_path / "R.md").read_text()
    assert "| P1 | a | b | c | yes |" in text and "| P2 | a | b | c | - |" in text and "a note" in text
    stored = json.loads((tmp_path / "R.json").read_text())
    assert [Row(**row) for row in stored["rows"]] == rows
    assert stored == as_json(rows, stored["machine"]) and "cores" in stored["machine"]


def test_an_interrupted_run_keeps_what_it_measured(monkeypatch, tmp_path):
    def measure(goal, quick):
        if goal == "P2":
            raise KeyboardInterrupt
        return [Row(goal, "a", "b", "c", True)]

    monkeypatch.setattr(benchmarks_main, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        benchmarks_main.main(["--only", "P1", "P2", "--output", str(tmp_path / "R.md")])
    assert "| P1 | a | b | c | yes |" in (tmp_path / "R.md").read_text()


def test_the_goal_for_a_gpu_says_that_it_was_not_measured():
    (row,) = benchmarks_main.measure("P11", quick=False)
    assert row.met is None and row.measured.startswith("not measured on GPU")


def test_unknown_goals_are_refused():
    with pytest.raises(SystemExit):
        benchmarks_main.main(["--only", "P99"])


def test_a_missed_goal_stands_out():
    assert "| **no** |" in markdown([Row("P1", "a", "b", "c", False)], machine())


def test_cpu_time_is_counted():
    def spin():
        np.linalg.svd(np.ones((150, 150)))

    watch = Stopwatch()
    watch.around(spin)()
    assert watch.seconds > 0
    assert fastest(spin, lambda: None, repeats=2)[0] > 0


def test_cpu_time_of_processes_that_ended_is_counted():
    spin = "import time\nwhile time.process_time() < 0.8: pass"
    with FamilyClock() as clock:
        before = clock.read()
        subprocess.run([sys.executable, "-c", spin], check=True)
        assert 0.4 < clock.read() - before < 2


def test_cpu_time_of_one_process_of_the_family():
    spin = "import time\nwhile time.process_time() < 0.8: pass\ninput()"
    with FamilyClock() as clock, subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 60
        while clock.read_of(child.pid) < 0.7 and time.monotonic() < deadline:
            time.sleep(0.05)
        total = clock.read()
        assert 0.7 <= clock.read_of(child.pid) < 2
        assert clock.read_of(child.pid) + clock.read_of(os.getpid()) <= total + 0.1
        child.communicate(b"\n")


def test_memory_is_the_highest_not_the_last():
    def fill_and_drop():
        np.ones(50_000_000, np.uint8)

    assert 40e6 < extra_memory(fill_and_drop) < 90e6
    assert extra_memory(lambda: None) < 10e6


def test_other_annotations_are_noticed():
    mask = np.zeros((20, 30), bool)
    mask[2:5, 3:9] = True
    ours = Annotation((3, 2, 9, 5), mask[2:5, 3:9], 18, 0.9, 1.0, (4.0, 3.0))
    theirs = {"segmentation": mask, "predicted_iou": 0.9, "point_coords": [[4.0, 3.0]]}
    assert stock.differing([ours], [theirs]) == 0
    changed = mask.copy()
    changed[10, 10] = True
    assert stock.differing([ours], [theirs | {"segmentation": changed}]) == 1
    assert stock.differing([ours], []) is None
    assert stock.differing([ours], [theirs | {"point_coords": [[5.0, 3.0]]}]) is None


def test_pictures_are_what_the_goals_speak_of():
    image = photograph(0)
    assert image.shape == (1000, 1500, 3)
    assert np.array_equal(image, photograph(0)) and not np.array_equal(image, photograph(1))
    tiles = six_tiles()
    covered = np.zeros(image.shape[:2], bool)
    for tile in tiles:
        covered[tile.y0 : tile.y1, tile.x0 : tile.x1] = True
        assert 0 <= tile.x0 < tile.x1 <= 1500 and 0 <= tile.y0 < tile.y1 <= 1000
    assert len(tiles) == 6 and covered.all()
