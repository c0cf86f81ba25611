"""The synthetic set on disk, in VisA's original layout."""

from __future__ import annotations

import csv
import multiprocessing
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from zsad.datasets.synthetic.rendering import KINDS_B, kind_named, render
from zsad.errors import UsageError

_Job = tuple[str, str, int, int, bool]
"""(root, kind, number within its folder, seed, anomalous)"""


def write_synthetic_visa(
    root: str | os.PathLike[str],
    *,
    kinds: Sequence[str] | None = None,
    normal: int = 30,
    anomalous: int = 30,
    seed: int = 0,
    train: int = 0,
    workers: int = 1,
) -> Path:
    """Write a set that every reader of VisA understands.

    Files: ``<kind>/Data/Images/{Normal,Anomaly}/NNN.JPG``, ``<kind>/Data/Masks/Anomaly/NNN.png`` (small
    integers, see ``DEFECTS``), ``split_csv/1cls.csv``; and, for foreground evaluation,
    ``<kind>/Data/Foreground/{Normal,Anomaly}/NNN.png`` (0 or 255), which readers of VisA ignore. A picture
    depends on the seed, its kind and its number only, not on how many are written or by how many workers.

    Args:
        root: local folder, made if missing.
        kinds: names of kinds; default ``KINDS_B``.
        normal: normal test images per kind.
        anomalous: anomalous test images per kind.
        seed: another seed gives another set.
        train: normal training images per kind, numbered after the test images.
        workers: processes.

    Returns:
        The absolute path of ``root``.

    Raises:
        UsageError: an unknown kind, or counts that are negative or all zero.
    """
    names = [kind_named(name).name for name in (KINDS_B if kinds is None else kinds)]
    if min(normal, anomalous, train) < 0 or normal + anomalous + train == 0 or not names or workers < 1:
        raise UsageError(
            f"Cannot write {normal} normal, {anomalous} anomalous and {train} training images of {len(names)} kinds "
            f"with {workers} workers. Expected counts of 0 or more, not all 0, and at least one kind and worker."
        )
    target = Path(root).expanduser().absolute()
    jobs: list[_Job] = []
    rows: list[tuple[str, str, str, str, str]] = []
    for name in names:
        data = target / name / "Data"
        for folder in ("Images/Normal", "Images/Anomaly", "Masks/Anomaly", "Foreground/Normal", "Foreground/Anomaly"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        for number in range(normal + train):
            jobs.append((str(target), name, number, seed, False))
            split = "test" if number < normal else "train"
            rows.append((name, split, "normal", f"{name}/Data/Images/Normal/{number:03d}.JPG", ""))
        for number in range(anomalous):
            jobs.append((str(target), name, number, seed, True))
            mask = f"{name}/Data/Masks/Anomaly/{number:03d}.png"
            rows.append((name, "test", "anomaly", f"{name}/Data/Images/Anomaly/{number:03d}.JPG", mask))
    _run(jobs, workers)
    listing = target / "split_csv" / "1cls.csv"
    listing.parent.mkdir(exist_ok=True)
    with open(listing, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("object", "split", "label", "image", "mask"))
        writer.writerows(rows)
    return target


def sample_rng(kind: str, number: int, seed: int, anomalous: bool) -> np.random.Generator:
    """The generator of one picture of the set."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), number, int(anomalous)])


def _run(jobs: list[_Job], workers: int) -> None:
    if workers == 1:
        for job in jobs:
            _write(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        _exhaust(pool.map(_write, jobs, chunksize=4))


def _exhaust(results: Iterable[None]) -> None:
    for _ in results:
        pass


def _write(job: _Job) -> None:
    root, kind, number, seed, anomalous = job
    sample = render(kind, sample_rng(kind, number, seed, anomalous), anomalous)
    data = Path(root) / kind / "Data"
    label = "Anomaly" if anomalous else "Normal"
    (data / "Images" / label / f"{number:03d}.JPG").write_bytes(sample.jpeg)
    _write_png(data / "Foreground" / label / f"{number:03d}.png", sample.foreground.astype(np.uint8) * 255)
    if anomalous:
        _write_png(data / "Masks" / label / f"{number:03d}.png", sample.mask)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
