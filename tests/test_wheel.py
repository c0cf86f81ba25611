"""The wheel on its own, away from the repository, runs the demo."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).parent.parent


def test_wheel_runs_the_demo(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(REPOSITORY / "zsad", source / "zsad", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("zsad-*.whl")
    assert wheel.stat().st_size < 27 * 1024**2
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    script = "import zsad, sys; print(zsad.__file__); from zsad.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "demo", "--output", tmp_path / "demo", "--per-kind", "1"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    for text in ("F1-max", "AUPRO", "mean", "highest score first", f"Results:  {tmp_path / 'demo'}"):
        assert text in done.stdout
    (results,) = (tmp_path / "demo").glob("results-*")
    assert (results / "_SUCCESS").is_file()
    predictions = pd.read_parquet(results / "predictions")
    assert len(predictions) == 28 and (predictions["status"] == "ok").all()
    assert len(list((tmp_path / "demo").glob("images-*/*/Data/Images/*/*.JPG"))) == 28
