"""`ray job submit` end to end against a head started here: log, exit code, results, a failing job fails."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import draw
from zsad import read_predictions

REPOSITORY = Path(__file__).parent.parent.parent
RAY = str(Path(sys.executable).parent / "ray")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head():
    """Address of the dashboard of a Ray head on loopback; stopped by its process group at the end."""
    gcs, dashboard = free_port(), free_port()
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", "--node-ip-address=127.0.0.1"]
    command += [f"--port={gcs}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
    # Its agent has a fixed port by default, which another Ray of this test session may hold.
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    command += ["--object-store-memory=200000000", "--disable-usage-stats"]
    # A short path: the sockets below it must fit into 107 characters.
    folder = tempfile.mkdtemp(prefix="zs", dir="/tmp")
    command += [f"--temp-dir={folder}"]
    # Jobs run the first `python` on the head's path.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    captured = {"capture_output": True, "text": True}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        end = time.monotonic() + 180
        # Listing jobs answers before the agent that starts them does.
        while (
            tried := subprocess.run([RAY, "job", "submit", "--address", address, "--", "true"], **captured)
        ).returncode:
            assert process.poll() is None, "the head did not start"
            assert time.monotonic() < end, f"the head did not answer: {tried.stderr[-2000:]}"
            time.sleep(1)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def submit(head, *entrypoint):
    # What is not in the repository must not travel: the job's package has a size limit.
    excluded = {"excludes": [".git", ".venv", "demo", "tests", "/tools", "/docs"]}
    command = [RAY, "job", "submit", "--address", head, "--working-dir", str(REPOSITORY)]
    command += ["--runtime-env-json", json.dumps(excluded), "--", "python", *map(str, entrypoint)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)


def test_score_and_evaluate_as_jobs(head, tmp_path):
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    rows = ["image_path,category,class_name,gt_label,mask_path"]
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), draw(rng, 200, 200, 2))
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), np.eye(200, dtype=np.uint8) * 255)
        rows.append(f"{index}.png,discs,disc,{index},{f'masks/{index}.png' if index else ''}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    output = tmp_path / "out"

    scored = submit(
        head, "jobs/score.py", "--dataset", "manifest", "--root", tmp_path, "--output", output, "--preset", "mini"
    )
    log = scored.stdout + scored.stderr
    assert scored.returncode == 0, log
    assert "2/2 images (100.0%)" in log and "2 rows, 2 ok, 0 errors" in log
    assert sorted(read_predictions(str(output))["image_id"]) == ["0.png", "1.png"]

    evaluated = submit(head, "jobs/evaluate.py", output)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert "AUPRO" in evaluated.stdout and "discs" in evaluated.stdout
    assert (output / "metrics" / "native.parquet").is_file()


def test_a_failing_job_fails(head, tmp_path):
    done = submit(
        head, "jobs/score.py", "--dataset", "folder", "--root", tmp_path / "none", "--output", tmp_path / "out"
    )
    assert done.returncode == 1
    assert "Error: " in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()
