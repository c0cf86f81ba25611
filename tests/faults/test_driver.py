"""The driver is killed, interrupted and terminated, its actors are killed, and a second driver comes in between."""

import os
import re
import signal
import subprocess
import time

import pandas as pd
import pytest

from tests.faults.conftest import ZSAD, arguments
from tests.faults.faulty import Faults
from tools.processes import alive, command, descendants, map_workers, wait_gone
from tools.same_run import differences
from zsad.storage import read_success


def committed(output):
    return set(pd.read_parquet(f"{output}/predictions")["image_id"])


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One output for all tests of this file, each of which goes on where the one before was stopped."""
    return tmp_path_factory.mktemp("interrupted") / "out"


def test_killed_driver_leaves_no_process_and_a_second_one_was_refused_meanwhile(start, images, output):
    first = start(output, Faults(sleep=0.3))
    first.wait_until((output / ".lock.json").exists)
    second = subprocess.run([ZSAD, *arguments(images, output)], capture_output=True, text=True)
    assert second.returncode == 2, second.stderr
    assert f"Another run is writing to the output '{output}': process {first.pid} on " in second.stderr
    first.wait_until(lambda: len(first.parts()) >= 2)
    family = descendants(first.pid)
    assert map_workers(family)
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    assert not wait_gone(family, 120)
    assert 4 <= len(committed(output)) < 24
    assert read_success(str(output)) is None


def test_interrupted_driver_says_how_to_go_on(start, output, tmp_path):
    before = committed(output)
    driver = start(output, Faults(sleep=0.3, begun=str(tmp_path / "begun")))
    driver.wait_for_more_parts(1)
    family = descendants(driver.pid)
    # As a terminal does: to every process of the group.
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait() == 130
    text = driver.text()
    assert "Interrupted. What is committed stays; run the same command again to go on." in text
    assert "Traceback" not in text
    assert f"{len(before)} already done, {24 - len(before)} to do" in text
    assert not wait_gone(family, 120)
    assert read_success(str(output)) is None
    assert not list(output.glob(".lock*"))
    assert not before & set((tmp_path / "begun").read_text().split())
    assert before < committed(output)


def test_terminated_while_ray_starts_it_leaves_nothing_behind(start, tmp_path):
    driver = start(tmp_path / "out")
    driver.wait_until(lambda: any("raylet/raylet" in command(pid) for pid in descendants(driver.pid)))
    # Long enough for the raylet to have begun its agents, and well before they are ready.
    family, end = set(), time.monotonic() + 0.3
    while time.monotonic() < end:
        family |= descendants(driver.pid)
    os.kill(driver.pid, signal.SIGTERM)
    time.sleep(0.01)
    # As of a program that passes it on to a group of processes that has it already.
    os.kill(driver.pid, signal.SIGTERM)
    while driver.process.poll() is None:
        family |= descendants(driver.pid)
        time.sleep(0.02)
    assert driver.wait() == 143
    assert driver.text().endswith("Interrupted. What is committed stays; run the same command again to go on.\n")
    assert "Traceback" not in driver.text()
    assert len(family) > 3
    # On a busy machine Ray's last processes take their time to notice.
    assert not wait_gone(family, 60)
    assert not list((tmp_path / "out").glob("predictions/*"))


def test_killed_actors_cost_nothing_and_the_table_is_that_of_an_uninterrupted_run(start, output, reference):
    driver = start(output, Faults(sleep=0.3))
    driver.wait_for_more_parts(1)
    killed = set()

    def workers():
        return set(map_workers(alive(descendants(driver.pid)))) - killed

    # The first one at its work, the one in its place while it loads the models.
    for _ in range(2):
        driver.wait_until(workers)
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert driver.wait() == 0, driver.text()
    assert len(killed) >= 2
    assert differences(output, reference) == []
    assert read_success(str(output)).counts == {"images": 24, "ok": 23, "errors": 1}


def test_an_output_that_cannot_be_written_is_refused_before_anything_starts(images):
    done = subprocess.run([ZSAD, *arguments(images, "/proc/zsad")], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert re.search(r"Cannot write to the output '/proc/zsad'.*Expected a folder or bucket", done.stderr)
