"""Train the bundled mini models on the CPU: ``python -m tools.train_mini --work /tmp/mini``.

Draws the training pictures (kinds A and random kinds) into the work folder, trains the four models one after the
other (or those given, so that two processes can share the work), and writes float16 safetensors. Stopped and started again, it
goes on from the last checkpoint; with a larger ``--steps`` a finished run is carried on. The figures of the card:
``python -m tools.train_mini.figures``. New weights need their hashes in ``zsad/models/registry.py``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.train_mini.clip import train_clip
from tools.train_mini.clipseg import train_clipseg
from tools.train_mini.data import prepare_crops, prepare_scenes
from tools.train_mini.isnet import train_isnet
from tools.train_mini.sam import train_sam
from zsad.models.weights import sha256_of

TRAIN: dict[str, tuple[Callable[..., tuple[dict[str, Tensor], float]], Callable[..., Any], int]] = {
    "clip": (train_clip, prepare_crops, 10200),
    "clipseg": (train_clipseg, partial(prepare_crops, random_kinds=0, normal=110, anomalous=260), 4000),
    "isnet": (train_isnet, prepare_scenes, 1000),
    "sam": (train_sam, prepare_scenes, 1800),
}
"""Function, pictures and steps of each model. CLIPSeg found less after thousands of random kinds than after kinds A."""


def main() -> None:
    """Prepare, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="folder for pictures (25 GB) and checkpoints")
    parser.add_argument("--output", type=Path, help="folder for the safetensors; the work folder when left out")
    parser.add_argument("--models", nargs="*", choices=tuple(TRAIN), default=list(TRAIN))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--picture-seed", type=int, default=1000)
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the steps of every model")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in given.models:
        function, pictures, steps = TRAIN[name]
        drawn = pictures(given.work, given.picture_seed, given.workers)
        state, minutes = function(drawn, given.work, given.seed, max(1, round(steps * given.steps)))
        path = (given.output or given.work) / f"mini-{name}.safetensors"
        write(state, path)
        print(f"{path.name}: {minutes:.1f} CPU minutes, {path.stat().st_size} bytes, sha256 {sha256_of(path)}")


def write(state: dict[str, Tensor], path: Path) -> None:
    """Floating-point entries as float16, into a safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {
        key: (value.half() if value.is_floating_point() else value).contiguous().clone() for key, value in state.items()
    }
    save_file(half, path)


if __name__ == "__main__":
    main()
