"""Where a defect lies and how its outline runs."""

from __future__ import annotations

import cv2
import numpy as np

from zsad.datasets.synthetic.surface import Float, Surface

Generator = np.random.Generator


def site(surface: Surface, rng: Generator) -> np.ndarray:
    """A point (x, y) well inside the object."""
    step = max(min(surface.shape) // 60, 1)
    small = (surface.cover[::step, ::step] > 0.9).astype(np.uint8)
    inner = cv2.erode(small, np.ones((5, 5), np.uint8), borderValue=0)
    rows, columns = np.nonzero(inner if inner.any() else small)
    pick = int(rng.integers(len(rows)))
    return np.array([columns[pick], rows[pick]], np.float64) * step


def edge_point(surface: Surface, rng: Generator) -> np.ndarray:
    """A point (x, y) on the outer outline."""
    solid = (surface.cover > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)[:, 0]
    return outline[int(rng.integers(len(outline)))].astype(np.float64)


def offsets(surface: Surface, centre: np.ndarray) -> tuple[Float, Float]:
    """x (1, W) and y (H, 1) in pixels from ``centre``."""
    x = np.arange(surface.shape[1], dtype=np.float32)[None, :] - np.float32(centre[0])
    y = np.arange(surface.shape[0], dtype=np.float32)[:, None] - np.float32(centre[1])
    return x, y


def blob(surface: Surface, rng: Generator, centre: np.ndarray, radius: float, ragged: float) -> Float:
    """Signed distance, roughly, of an irregular spot."""
    dx, dy = offsets(surface, centre)
    turn, squash = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
    u = dx * np.cos(turn) + dy * np.sin(turn)
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / squash
    angle = np.arctan2(v, u)
    lobes = sum(rng.normal(0, ragged / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5, 8))
    return (np.sqrt(u * u + v * v) - radius * np.clip(1 + lobes * 0.6, 0.35, 1.8)).astype(np.float32)


def wander(rng: Generator, start: np.ndarray, heading: float, length: float, wobble: float) -> np.ndarray:
    """Points (N, 2) of a line that changes its direction by about ``wobble`` radians a step."""
    steps = int(np.clip(length / 7, 6, 28))
    drift = rng.normal(0, 0.06)
    headings = heading + np.cumsum(rng.normal(drift, wobble, steps) * (0.5 if wobble < 0.3 else 1))
    if wobble > 0.3:
        headings = heading + rng.normal(0, wobble * 1.3, steps)
    move = np.stack([np.cos(headings), np.sin(headings)], 1) * (length / steps)
    return np.concatenate([start[None], start + np.cumsum(move, 0)])


def pad_rows(surface: Surface, rows: int) -> None:
    """Empty rows above and below, for what is bent out of the frame."""
    for name in ("colour", "height", "gloss", "metal", "cover"):
        mode = cv2.BORDER_REPLICATE if name == "colour" else cv2.BORDER_CONSTANT
        setattr(surface, name, cv2.copyMakeBorder(getattr(surface, name), rows, rows, 0, 0, mode))
