"""Defects, made in the object's own material before it is lit; each returns exactly the pixels it touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np

from zsad.datasets.synthetic.marks import blob, edge_point, offsets, pad_rows, site, wander
from zsad.datasets.synthetic.surface import (
    Float,
    Stamp,
    Surface,
    clouds,
    cover,
    grain,
    line,
    noise,
    paint,
    polygon,
)

Generator = np.random.Generator
Defect = Callable[[Surface, Generator, float, float], Float]
"""(surface, generator, extent in pixels, severity in (0, 1]) -> coverage (H, W) of what was changed."""

DEFECTS = (
    "scratch",
    "crack",
    "dent",
    "missing",
    "stain",
    "hole",
    "bend",
    "break",
    "misplaced",
    "contamination",
)
"""Names of the defects; the integer in a mask is the position here plus one."""

_STAINS = (
    (0.36, 0.19, 0.07),
    (0.13, 0.1, 0.08),
    (0.24, 0.27, 0.12),
    (0.8, 0.78, 0.72),
    (0.42, 0.1, 0.06),
    (0.2, 0.2, 0.3),
)
_FOREIGN = (
    (0.08, 0.08, 0.09),
    (0.85, 0.84, 0.8),
    (0.55, 0.1, 0.1),
    (0.15, 0.3, 0.6),
    (0.3, 0.2, 0.1),
    (0.55, 0.55, 0.56),
)


def scratch(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """A groove along a gently curved line, sometimes beside a second one."""
    touched = np.zeros(surface.shape, np.float32)
    start, turn = site(surface, rng), rng.uniform(0, 2 * np.pi)
    for number in range(1 if rng.random() < 0.7 else 2):
        points = wander(rng, start + number * rng.normal(0, 4, 2), turn, extent * rng.uniform(1.2, 2.2), 0.05)
        width = max(1.0, extent * 0.03 * rng.uniform(0.5, 1.2))
        groove = line(surface.shape, points, width) * surface.cover
        rough = np.clip(0.75 + 0.35 * noise(rng, surface.shape, 6), 0.15, 1)
        bright = 0.5 if surface.colour[groove > 0.3].mean() < 0.45 or rng.random() < 0.4 else -0.4
        target = np.clip(surface.colour * (1 + bright) + 0.12 * np.sign(bright), 0.03, 0.97)
        surface.colour += (groove * rough * severity * 0.9)[..., None] * (target - surface.colour)
        surface.height -= groove * severity * rng.uniform(0.8, 1.8)
        touched = np.maximum(touched, groove)
    return touched


def crack(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """A dark jagged line with branches, widest in the middle; often from the rim."""
    rim = rng.random() < 0.5
    start = edge_point(surface, rng) if rim else site(surface, rng)
    centre = np.array([surface.shape[1] / 2, surface.shape[0] / 2])
    heading = np.arctan2(*(centre - start)[::-1]) + rng.normal(0, 0.5) if rim else rng.uniform(0, 2 * np.pi)
    points = wander(rng, start, heading, extent * 1.8, 0.45)
    width = max(1.0, extent * 0.035 * (0.5 + severity))
    gap = np.zeros(surface.shape, np.float32)
    pieces = max(len(points) // 4, 1)
    for first in range(0, len(points) - 1, pieces):
        gap = np.maximum(gap, line(surface.shape, points[first : first + pieces + 1], width * rng.uniform(0.5, 1.2)))
    for _ in range(int(rng.integers(0, 3))):
        fork = int(rng.integers(1, len(points) - 1))
        side = heading + rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
        gap = np.maximum(gap, line(surface.shape, wander(rng, points[fork], side, extent * 0.6, 0.4), width * 0.6))
    gap *= surface.cover
    deep = np.asarray(surface.inner, np.float32) * 0.28
    surface.colour += (gap * (0.35 + 0.6 * severity))[..., None] * (deep - surface.colour)
    surface.height -= cv2.GaussianBlur(gap, (0, 0), width * 0.6) * (0.8 + 2 * severity)
    surface.gloss *= 1 - gap
    return gap


def dent(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """A smooth hollow with a slight rim, seen only by how it catches the light."""
    centre, turn = site(surface, rng), rng.uniform(0, np.pi)
    dx, dy = offsets(surface, centre)
    long, short = extent * 0.55, extent * rng.uniform(0.3, 0.55)
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / long
    v = (dy * np.cos(turn) - dx * np.sin(turn)) / short
    ring = (u * u + v * v) * (1 + 0.15 * noise(rng, surface.shape, extent * 0.5))
    hollow = np.exp(-2.2 * ring).astype(np.float32)
    rim = np.exp(-6 * (np.sqrt(ring) - 1.15) ** 2).astype(np.float32)
    depth = extent * (0.1 + 0.3 * severity)
    surface.height -= (hollow - 0.18 * rim) * depth
    surface.colour *= 1 - (0.05 + 0.12 * severity) * hollow[..., None]
    return (np.clip((hollow - 0.22) * 4, 0, 1) * surface.cover).astype(np.float32)


def stain(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """A discoloured patch that the texture still shows through, darker at its edge."""
    centre = site(surface, rng)
    edge = blob(surface, rng, centre, extent * 0.5, 0.45)
    inside = np.clip(0.5 - edge / (extent * 0.1 + 1.5), 0, 1) * surface.cover
    ringed = inside * (0.75 + 0.4 * np.exp(-((edge / (extent * 0.09)) ** 2)))
    strength = ringed * np.clip(0.8 + 0.2 * clouds(rng, surface.shape, extent * 0.5, 3), 0.2, 1.2)
    around = surface.colour[inside > 0.5].mean(0) if (inside > 0.5).any() else np.full(3, 0.5)
    colours = np.asarray(_STAINS, np.float32)
    colour = colours[rng.permutation(len(colours))]
    chosen = colour[np.argmax(np.abs(colour - around).max(1) > 0.25)]
    blend = np.clip(strength * (0.2 + 0.6 * severity), 0, 0.92)[..., None].astype(np.float32)
    own = surface.colour.mean(-1, keepdims=True) / max(float(around.mean()), 0.05)
    surface.colour += blend * (chosen * np.clip(0.6 + 0.4 * own, 0.3, 1.6) - surface.colour)
    surface.gloss *= 1 - 0.5 * blend[..., 0]
    surface.metal *= 1 - 0.8 * blend[..., 0]
    return inside.astype(np.float32)


def hole(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """A ragged pit, or a hole right through when severe."""
    centre = site(surface, rng)
    radius = extent * 0.22
    opening = cover(blob(surface, rng, centre, radius, 0.3))
    pit = opening * surface.cover
    wall = cover(blob(surface, rng, centre, radius * 1.15, 0.3)) * surface.cover
    touched = np.maximum(pit, wall)
    paint(surface, wall, tuple(0.8 * c for c in surface.inner))  # type: ignore[arg-type]
    through = severity > 0.55 and surface.thickness < 60
    if through:
        surface.cover *= 1 - opening
    depth = min(radius * 0.8, 8.0) * (0.4 + severity)
    surface.height -= cv2.GaussianBlur(pit, (0, 0), max(radius * 0.18, 0.7)) * depth
    surface.colour *= 1 - (0.35 + 0.4 * severity) * pit[..., None]
    surface.gloss *= 1 - pit
    surface.metal *= 1 - pit
    return touched


def bend(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """The outline pushed sideways: the end of a slender object, the rim of a round one."""
    rows, columns = surface.shape
    x = np.arange(columns, dtype=np.float32)[None, :] + np.zeros((rows, 1), np.float32)
    y = np.arange(rows, dtype=np.float32)[:, None] + np.zeros((1, columns), np.float32)
    if columns > 2.5 * rows:
        side, sign = rng.choice([-1, 1]), rng.choice([-1, 1])
        reach = min(extent * rng.uniform(1.2, 2.5), columns * 0.4)
        past = np.clip(((x if side > 0 else columns - 1 - x) - (columns - 1 - reach)) / reach, 0, 1)
        push = sign * past**1.6 * reach * (0.12 + 0.35 * severity)
        pad = int(np.ceil(float(np.abs(push).max()))) + 1
        pad_rows(surface, pad)
        moved_x = cv2.copyMakeBorder(x, pad, pad, 0, 0, cv2.BORDER_REPLICATE)
        base = np.arange(rows + 2 * pad, dtype=np.float32)[:, None]
        push = cv2.copyMakeBorder(push, pad, pad, 0, 0, cv2.BORDER_REPLICATE)
        moved_y, distance = base - push, np.abs(push)
    else:
        point = edge_point(surface, rng)
        inward = np.array([columns / 2, rows / 2]) - point
        inward /= max(float(np.hypot(*inward)), 1e-6)
        radius = extent * rng.uniform(0.6, 1.0)
        away = ((x - point[0]) ** 2 + (y - point[1]) ** 2) / (1.6 * radius) ** 2
        amount = (np.clip(1 - away, 0, 1) ** 2).astype(np.float32)
        depth = radius * (0.3 + 0.45 * severity)
        moved_x, moved_y = x - amount * inward[0] * depth, y - amount * inward[1] * depth
        distance = amount * depth
    before = surface.cover
    for name in ("colour", "height", "gloss", "metal", "cover"):
        mode = cv2.BORDER_REPLICATE if name == "colour" else cv2.BORDER_CONSTANT
        moved = cv2.remap(
            getattr(surface, name),
            moved_x.astype(np.float32),
            moved_y.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=mode,
        )
        setattr(surface, name, moved)
    return (np.maximum(surface.cover, before) * np.clip(distance - 0.5, 0, 1)).astype(np.float32)


def break_off(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """A piece of the rim broken away along a ragged line, with a strip of bare material left."""
    point = edge_point(surface, rng)
    edge = blob(surface, rng, point, extent * (0.3 + 0.3 * severity), 0.35)
    edge += noise(rng, surface.shape, max(extent * 0.06, 1.5)) * extent * 0.018
    gone = cover(edge)
    strip = cover(edge - max(extent * 0.06, 1.5)) * surface.cover
    rough = 1 + 0.12 * noise(rng, surface.shape, 2)
    surface.colour += strip[..., None] * (np.asarray(surface.inner, np.float32) * rough[..., None] - surface.colour)
    surface.height -= strip * np.minimum(surface.height * 0.5, 4)
    surface.gloss *= 1 - strip
    surface.cover *= 1 - gone
    surface.height *= 1 - gone
    return strip


def contamination(surface: Surface, rng: Generator, extent: float, severity: float) -> Float:
    """Something foreign on top: a fibre, crumbs or a drop of paint."""
    centre = site(surface, rng)
    colours = np.asarray(_FOREIGN, np.float32)
    around = surface.colour[int(centre[1]), int(centre[0])]
    far = np.abs(colours - around).max(1)
    colour = colours[rng.choice(np.flatnonzero(far > min(0.2 + 0.2 * severity, float(far.max()) - 1e-3)))]
    tone = (float(colour[0]), float(colour[1]), float(colour[2]))
    kind = rng.random()
    if kind < 0.35:
        points = wander(rng, centre, rng.uniform(0, 2 * np.pi), extent * 1.6, 0.28)
        foreign = line(surface.shape, points, max(1.2, extent * 0.03))
        rise = 2.0
    elif kind < 0.75:
        foreign = np.zeros(surface.shape, np.float32)
        for _ in range(int(rng.integers(1, 8))):
            spot = centre + rng.normal(0, extent * 0.25, 2)
            corners = int(rng.integers(5, 9))
            turns = np.sort(rng.uniform(0, 2 * np.pi, corners))
            reach = max(extent * rng.uniform(0.04, 0.13), 1.5) * rng.uniform(0.6, 1.2, corners)
            foreign = np.maximum(
                foreign, polygon(surface.shape, spot + np.stack([np.cos(turns), np.sin(turns)], 1) * reach[:, None])
            )
        rise = max(extent * 0.05, 1.5)
    else:
        foreign = cover(blob(surface, rng, centre, extent * 0.25, 0.25))
        rise = max(extent * 0.03, 1.0)
    foreign *= surface.cover
    shade = cv2.GaussianBlur(foreign, (0, 0), 1 + rise * 0.6)
    surface.colour *= 1 - 0.3 * (shade * (1 - foreign))[..., None]
    paint(surface, foreign * (0.55 + 0.45 * severity), tone, gloss=0.3, metal=0.0)
    grain(surface, noise(rng, surface.shape, 2) * foreign, 0.1)
    surface.height += cv2.GaussianBlur(foreign, (0, 0), 0.8) * rise
    return foreign


def mount_all(surface: Surface, rng: Generator, fault: str | None, severity: float) -> Float:
    """Mount the components; with ``missing`` or ``misplaced`` one is left out or put wrongly.

    Returns the coverage (H, W) of what is wrong, all zero without a fault.
    """
    stamps, surface.stamps = surface.stamps, []
    wrong = int(rng.integers(len(stamps))) if fault else -1
    touched = np.zeros(surface.shape, np.float32)
    for number, stamp in enumerate(stamps):
        if number != wrong:
            surface.mount(stamp)
    if fault:
        stamp = stamps[wrong]
        touched = surface.copy().mount(stamp)
        if fault == "misplaced":
            length = max(stamp.surface.shape)
            turn, angle = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]) * rng.uniform(12, 25 + 65 * severity)
            away = length * (0.12 + 0.3 * severity)
            moved = Stamp(
                stamp.surface, stamp.x + away * np.cos(turn), stamp.y + away * np.sin(turn), stamp.angle + angle
            )
            touched = np.maximum(touched, surface.mount(moved))
    return touched


SURFACE_DEFECTS: Mapping[str, Defect] = MappingProxyType(
    {
        "scratch": scratch,
        "crack": crack,
        "dent": dent,
        "stain": stain,
        "hole": hole,
        "bend": bend,
        "break": break_off,
        "contamination": contamination,
    }
)
