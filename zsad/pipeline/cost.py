"""What a preset costs, so that a run that would take for ever says so before it starts."""

from __future__ import annotations

import time

import torch

from zsad.config import Config
from zsad.models.weights import entry

_TILES = 6
_GFLOP = {
    "isnet-general-use": 319,
    "sam-vit-b": 972 + 3710,
    "sam-vit-l": 2986 + 3710,
    "sam-vit-h": 5961 + 3710,
    "ViT-B-16-plus-240/laion400m_e31": 55 * _TILES,
    "ViT-L-14-336-quickgelu/openai": 382 * _TILES,
    "ViT-H-14/laion2b_s32b_b79k": 335 * _TILES,
    "ViT-SO400M-16-SigLIP2-384/webli": 519 * _TILES,
    "PE-Core-L-14-336/meta": 384 * _TILES,
    "clipseg-rd64-refined": (77 + 1.2 * 18) * _TILES,
}
"""Billions of floating-point operations per image of 1500 x 1000 pixels with six tiles."""

_SLOW_SECONDS = 60


def slow_warning(config: Config, device: str) -> str | None:
    """A warning with the estimate when an image would take over a minute on this CPU, else None."""
    gflop = sum(_GFLOP.get(model.name, 0) for model in config.models.by_family().values())
    if device != "cpu" or gflop < 100:
        return None
    seconds = gflop / _cpu_gflop_per_second()
    if seconds < _SLOW_SECONDS:
        return None
    return (
        f"Preset {config.preset} on this CPU: roughly {seconds / 60:.1f} minutes per image "
        f"(about {gflop / 1000:.1f} TFLOP each). Use a GPU, or try a few images first with --limit 3."
    )


def weights_gib(config: Config) -> float:
    """Size of the weights of all four models in GiB, as far as the registry knows it."""
    return sum(entry(model.name).size_bytes or 0 for model in config.models.by_family().values()) / 1024**3


def _cpu_gflop_per_second() -> float:
    """Speed of a matrix product on all cores, which convolutions and attention do not exceed."""
    size = 1024
    matrix = torch.rand(size, size)
    matrix @ matrix
    start = time.perf_counter()
    for _ in range(5):
        matrix @ matrix
    return 5 * 2 * size**3 / 1e9 / (time.perf_counter() - start)
