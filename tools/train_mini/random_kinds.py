"""Kinds drawn at random: no two alike, for training only.

Fourteen kinds teach what fourteen kinds look like; thousands of them leave only what defects have in common.
Each is put together from outlines, holes, relief, prints, textures and mounted parts by its number, and drawn and
damaged like every other kind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from zsad.datasets.synthetic.defects import SURFACE_DEFECTS
from zsad.datasets.synthetic.kinds import Kind
from zsad.datasets.synthetic.surface import (
    Colour,
    Float,
    Stamp,
    Surface,
    box,
    clouds,
    cover,
    disc,
    grain,
    grid,
    line,
    make,
    near,
    noise,
    paint,
    pierce,
    polygon,
    rounded,
    scuffs,
    tint,
)

Generator = np.random.Generator


def random_kind(number: int) -> Kind:
    """The kind of this number, always the same."""
    plan = np.random.default_rng([number, 1])
    slender = float(plan.choice([1.0, plan.uniform(1.1, 2.6), plan.uniform(3.0, 10.0)], p=[0.5, 0.28, 0.22]))
    defects = list(plan.permutation(list(SURFACE_DEFECTS))[: int(plan.integers(5, 9))])
    if _mounted(number):
        defects += ["missing", "misplaced"]
    most = int(plan.integers(1, 4)) if slender >= 3 else int(plan.choice([1, 1, 2, 4, 6, 9]))
    return Kind(
        f"random_{number}",
        partial(_build, number, slender),
        tuple(map(str, defects)),
        (1, most),
        slender,
        bool(plan.random() < 0.7),
    )


def _mounted(number: int) -> bool:
    return bool(np.random.default_rng([number, 2]).random() < 0.35)


def _build(number: int, slender: float, look: Generator, rng: Generator, size: float) -> Surface:
    plan = np.random.default_rng([number, 3])
    x, y = grid(size * 0.96 / slender + 8, size)
    half_h = size * 0.45 / slender
    edge = _outline(plan, look, rng, x, y, size * 0.46, half_h)
    metal = plan.random() < 0.4
    colour = _colour(plan, look, metal)
    body = make(
        edge,
        tint(look, colour, 0.06),
        bevel=half_h * float(np.exp(plan.uniform(np.log(0.02), np.log(0.6)))),
        gloss=float(plan.uniform(0.05, 0.7)),
        metal=float(plan.uniform(0.4, 0.85)) if metal else 0.0,
        thickness=half_h * float(plan.uniform(0.05, 0.6)),
        inner=tuple(float(v) for v in np.clip(np.array(colour) * plan.uniform(0.6, 1.25), 0.05, 0.95)),  # type: ignore[arg-type]
    )
    for change in plan.permutation(_CHANGES)[: int(plan.integers(1, 5))]:
        change(body, plan, look, rng, x, y, size, half_h)
    _texture(body, plan, rng, half_h)
    if _mounted(number):
        _mount(body, plan, look, rng, size, half_h)
    return scuffs(body, rng, size) if plan.random() < 0.7 else body


def _colour(plan: Generator, look: Generator, metal: bool) -> Colour:
    """Greys and brasses, plastics, foods; some kinds come in several colours."""
    source = look if plan.random() < 0.3 else plan
    light = float(source.uniform(0.12, 0.9))
    vivid = float(source.uniform(0, 0.12) if metal or source.random() < 0.3 else source.uniform(0.1, 0.75))
    hue = source.uniform(0, 2 * np.pi) if source.random() < 0.5 else source.normal(0.6, 0.3)
    way = np.cos(hue - np.array([0.0, 2 * np.pi / 3, 4 * np.pi / 3]))
    red, green, blue = (float(v) for v in np.clip(light * (1 + vivid * way), 0.04, 0.95))
    return red, green, blue


def _outline(
    plan: Generator, look: Generator, rng: Generator, x: Float, y: Float, half_w: float, half_h: float
) -> Float:
    """Signed distance, roughly, of one shape or of a few joined."""
    u, v = x / half_w, y / half_h
    angle, ring = np.arctan2(v, u), np.sqrt(u * u + v * v)
    long = half_w > 2.5 * half_h
    kind = int(plan.integers(4, 8)) if long else int(plan.integers(7))
    if kind == 0:
        power = plan.uniform(1.6, 7)
        shape = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power) - 1
    elif kind == 1:
        sides = int(plan.integers(3, 11))
        sector = np.mod(angle, 2 * np.pi / sides) - np.pi / sides
        flat = ring * np.cos(sector) - np.cos(np.pi / sides) * plan.uniform(0.97, 1.0)
        shape = np.maximum(flat, ring - plan.uniform(0.88, 1.0))
    elif kind == 2:
        teeth, sharp = int(look.integers(5, 40)), plan.uniform(0.6, 4)
        deep = plan.uniform(0.01, 0.12)
        shape = ring - (1 - deep + deep * np.clip(np.cos(angle * teeth) * sharp, -1, 1))
    elif kind == 3:
        lobes = sum(
            (plan.normal(0, 0.12 / k) + rng.normal(0, 0.015)) * np.cos(k * angle + plan.uniform(0, 6.3))
            for k in range(1, 7)
        )
        shape = ring - np.clip(0.82 * (1 + lobes), 0.4, 1.0)
    elif kind == 4:
        at = np.linspace(-1, 1, 7)
        knots = np.clip(plan.uniform(0.45, 1.0, 7) + rng.normal(0, 0.01, 7), 0.3, 1.0)
        profile = np.interp(u[0], at, knots)
        if plan.random() < 0.5:
            waves = plan.uniform(8, 70)
            profile = profile * (1 - plan.uniform(0.03, 0.25) * (0.5 + 0.5 * np.sin(waves * u[0])))
        shape = np.maximum(np.abs(v) - profile[None].astype(np.float32), (np.abs(u) - 1) * half_w / half_h)
    elif kind == 5:
        corner = half_h * float(plan.choice([0.02, 0.2, 1.0]))
        return box(x, y, half_w, half_h * 0.98, corner)
    elif kind == 6:
        parts = [box(x, y, half_w * plan.uniform(0.5, 1), half_h * plan.uniform(0.25, 0.6), 2)]
        for _ in range(int(plan.integers(1, 4))):
            place = plan.uniform(-0.75, 0.75) * half_w
            reach = min(half_w - abs(place), half_h) * plan.uniform(0.7, 1.0)
            parts.append(
                disc(x - place, y, reach)
                if plan.random() < 0.5
                else box(x - place, y, reach * plan.uniform(0.3, 1), half_h * plan.uniform(0.6, 1), 2)
            )
        return np.minimum.reduce([part + np.zeros(ring.shape, np.float32) for part in parts]).astype(np.float32)
    else:
        bow, tube = plan.uniform(-0.5, 0.5), plan.uniform(0.4, 0.6)
        shape = np.maximum(np.abs(v - bow * (u * u - 0.5)) - tube, (np.abs(u) - 1) * half_w / half_h)
    return (shape * half_h).astype(np.float32)


def _polar(body: Surface, x: Float, y: Float) -> tuple[Float, Float]:
    return np.sqrt(x * x + y * y), np.arctan2(y, x) + np.zeros(body.shape, np.float32)


def _holes(
    body: Surface, plan: Generator, look: Generator, rng: Generator, x: Float, y: Float, size: float, half_h: float
) -> None:
    """Bores, blind holes and dimples in a regular order; none of them is a defect."""
    through = plan.random() < 0.5
    reach = half_h * plan.uniform(0.35, 0.75)
    radius = half_h * plan.uniform(0.02, 0.14)
    order = int(plan.integers(4))
    if order == 0:
        spots, radius = [(0.0, 0.0)], half_h * look.uniform(0.1, 0.55)
    elif order == 1:
        turns = np.arange(int(look.integers(2, 13)))
        spots = [
            (reach * np.cos(t * 2 * np.pi / len(turns)), reach * np.sin(t * 2 * np.pi / len(turns))) for t in turns
        ]
    elif order == 2:
        far = size * 0.46 - half_h * 0.25
        spots = [(a * far, b * half_h * 0.75) for a in (-1, 1) for b in (-1, 1)]
    else:
        columns, rows = int(plan.integers(2, 12)), int(plan.integers(1, 6))
        radius = min(radius, size * 0.7 / columns / 3, half_h * 1.4 / rows / 3)
        spots = [
            ((c - (columns - 1) / 2) * size * 0.8 / columns, (r - (rows - 1) / 2) * half_h * 1.5 / rows)
            for c in range(columns)
            for r in range(rows)
        ]
    square = plan.random() < 0.2
    dark = tuple(float(v) for v in np.array(body.inner) * plan.uniform(0.2, 0.7))
    for px, py in spots:
        spot, dx, dy = near(body, px + rng.normal(0, radius * 0.05), py + rng.normal(0, radius * 0.05), radius * 1.5)
        opening = cover(box(dx, dy, radius, radius * 0.7, 1) if square else disc(dx, dy, radius))
        if through:
            pierce(spot, opening)
        else:
            paint(spot, opening * plan.uniform(0.5, 1.0), dark, height=-radius * 0.4)  # type: ignore[arg-type]


def _relief(
    body: Surface, plan: Generator, look: Generator, rng: Generator, x: Float, y: Float, size: float, half_h: float
) -> None:
    """Rings, ribs, threads, knurls and steps."""
    ring, angle = _polar(body, x, y)
    kind, strength = int(plan.integers(7)), half_h * plan.uniform(0.004, 0.05)
    shade = plan.uniform(0, 0.25)
    if kind == 0:
        wave = np.sin(ring / half_h * plan.uniform(6, 80) + look.uniform(0, 6))
    elif kind == 1:
        wave = np.sin(angle * int(look.integers(6, 60))) * cover(half_h * plan.uniform(0.2, 0.6) - ring)
    elif kind == 2:
        turn = plan.choice([0, np.pi / 2, plan.uniform(0, np.pi)])
        wave = np.sin((x * np.cos(turn) + y * np.sin(turn)) / half_h * plan.uniform(6, 60))
    elif kind == 3:
        pitch = half_h * plan.uniform(0.06, 0.4)
        wave = np.abs(np.mod((x + y * plan.uniform(-0.4, 0.4)) / pitch, 1) - 0.5) * 4 - 1
    elif kind == 4:
        pace = plan.uniform(10, 60) / half_h
        wave = np.sin(x * pace) * np.sin(y * pace)
    else:
        inset = plan.uniform(0.45, 0.9)
        panel = (
            disc(x, y, half_h * inset)
            if kind == 5
            else box(x, y, size * 0.46 - half_h * (1 - inset), half_h * inset, half_h * plan.uniform(0.02, 0.3))
        )
        step = plan.choice([-1, 1]) * half_h * plan.uniform(0.02, 0.12)
        body.height += step * cover(panel / max(half_h * 0.03, 1)) + 0.3 * rounded(panel, half_h * 0.05)
        body.colour *= (1 - shade * cover(panel))[..., None]
        return
    wave = np.broadcast_to(wave, body.shape).astype(np.float32)
    grain(body, wave, shade * 0.4, strength)


def _print(
    body: Surface, plan: Generator, look: Generator, rng: Generator, x: Float, y: Float, size: float, half_h: float
) -> None:
    """Paint: flowers, stars, frames, stripes, dots, rows of signs, halves of another colour."""
    ring, angle = _polar(body, x, y)
    colour = tint(look, _colour(plan, look, False), 0.05)
    kind, thin = int(plan.integers(8)), half_h * plan.uniform(0.01, 0.06)
    if kind == 0:
        petals, wide = int(look.integers(3, 12)), half_h * plan.uniform(0.2, 0.6)
        edge = ring - wide * (1 + plan.uniform(0.2, 0.9) * np.cos(petals * angle)) * 0.6
        mark = cover(edge if plan.random() < 0.5 else np.abs(edge) - thin)
    elif kind == 1:
        mark = cover(np.abs(box(x, y, size * 0.46 - half_h * 0.2, half_h * plan.uniform(0.5, 0.85))) - thin)
    elif kind == 2:
        mark = cover(np.abs(ring - half_h * plan.uniform(0.2, 0.9)) - thin)
    elif kind == 3:
        turn, pitch = plan.choice([0, np.pi / 2, 0.8]), half_h * plan.uniform(0.1, 0.9)
        along = x * np.cos(turn) + y * np.sin(turn)
        mark = cover((np.abs(np.mod(along / pitch, 1) - 0.5) - plan.uniform(0.05, 0.3)) * pitch)
    elif kind == 4:
        turn, where = plan.uniform(0, np.pi), plan.uniform(-0.4, 0.4) * half_h
        mark = cover(x * np.cos(turn) + y * np.sin(turn) - where)
    elif kind == 5:
        mark = np.zeros(body.shape, np.float32)
        for row in range(int(plan.integers(1, 4))):
            wide, tall = half_h * plan.uniform(0.4, 1.0), half_h * plan.uniform(0.03, 0.12)
            drop = (row - 1) * half_h * 0.3
            letters = cover(np.maximum(np.abs(y - drop) - tall, np.abs(x) - wide))
            mark = np.maximum(mark, letters * (noise(rng, body.shape, max(tall * 0.5, 1), max(tall * 0.4, 1)) > 0))
    elif kind == 6:
        mark = np.zeros(body.shape, np.float32)
        corners, spin = int(plan.integers(3, 9)), plan.uniform(0, 6)
        turns = np.arange(2 * corners) * np.pi / corners + spin
        far = half_h * plan.uniform(0.25, 0.7) * np.where(np.arange(2 * corners) % 2, plan.uniform(0.35, 1), 1)
        middle = np.array([body.shape[1], body.shape[0]]) / 2
        mark = polygon(body.shape, middle + np.stack([np.cos(turns), np.sin(turns)], 1) * far[:, None])
    else:
        mark = np.zeros(body.shape, np.float32)
        middle = np.array([body.shape[1], body.shape[0]]) / 2
        for _ in range(int(plan.integers(2, 9))):
            points = plan.uniform(-0.8, 0.8, (int(plan.integers(2, 5)), 2)) * (size * 0.46, half_h) + middle
            mark = np.maximum(mark, line(body.shape, points, max(thin, 1.0)))
    mark = np.broadcast_to(mark, body.shape).astype(np.float32) * plan.uniform(0.5, 1.0)
    paint(body, mark, colour, height=plan.uniform(-0.5, 1.0), metal=0.0)


def _spots(
    body: Surface, plan: Generator, look: Generator, rng: Generator, x: Float, y: Float, size: float, half_h: float
) -> None:
    """Seeds, pores or flakes all over: the same look as some defects, but everywhere."""
    count, reach = int(look.integers(15, 90)), half_h * plan.uniform(0.012, 0.06)
    colour, rise = _colour(plan, look, False), plan.uniform(-1.5, 1.5)
    for _ in range(count):
        spot, dx, dy = near(
            body, rng.uniform(-0.46, 0.46) * size, rng.uniform(-1, 1) * half_h, reach * rng.uniform(1, 2)
        )
        mark = cover(disc(dx, dy * plan.uniform(0.6, 1.6), reach * rng.uniform(0.5, 1.2)))
        paint(spot, mark * plan.uniform(0.3, 0.9), colour, height=rise)


_CHANGES: list[Callable[..., None]] = [_holes, _holes, _relief, _relief, _print, _print, _spots]


def _texture(body: Surface, plan: Generator, rng: Generator, half_h: float) -> None:
    strong, rough = plan.uniform(0.005, 0.06), plan.uniform(0, 0.6)
    kind = int(plan.integers(5))
    if kind == 0:
        texture = noise(rng, body.shape, plan.uniform(1, 4))
    elif kind == 1:
        texture = clouds(rng, body.shape, half_h * plan.uniform(0.05, 0.6), 4)
    elif kind == 2:
        texture = noise(rng, body.shape, plan.uniform(1, 2.5), half_h * plan.uniform(0.2, 1.5) + 3)
    elif kind == 3:
        warp = clouds(rng, body.shape, half_h, 2) * 2
        rows = np.arange(body.shape[0], dtype=np.float32)[:, None]
        texture = np.sin(rows / half_h * plan.uniform(15, 80) + warp)
    else:
        texture = 0.5 * noise(rng, body.shape, 1.5) + clouds(rng, body.shape, half_h * 0.4, 3)
    grain(body, texture.astype(np.float32), strong, rough)


def _part(plan: Generator, look: Generator, rng: Generator, wide: float) -> Surface:
    """A small component of two or three colours."""
    tall = wide * plan.uniform(0.35, 1.0)
    x, y = grid(tall + 4, wide + 4)
    edge = disc(x, y, tall / 2) if plan.random() < 0.4 else box(x, y, wide / 2, tall / 2, 1)
    metal = plan.random() < 0.4
    body = make(
        edge,
        tint(rng, _colour(plan, plan, metal), 0.02),
        bevel=tall * plan.uniform(0.03, 0.3),
        gloss=plan.uniform(0.2, 0.8),
        metal=0.6 if metal else 0.0,
        level=plan.uniform(0, 2.5),
    )
    for _ in range(int(plan.integers(0, 3))):
        half = (wide * plan.uniform(0.08, 0.45), tall * plan.uniform(0.08, 0.4))
        mark = box(x - plan.uniform(-0.3, 0.3) * wide, y, *half) if plan.random() < 0.6 else disc(x, y, half[1])
        paint(body, cover(mark) * body.cover, _colour(plan, plan, False), height=plan.uniform(-1, 1), metal=0.6 * metal)
    if plan.random() < 0.4:
        for side in (-1, 1):
            paint(body, cover(box(x - side * wide * 0.43, y, wide * 0.07, tall * 0.5)), (0.74, 0.74, 0.72), metal=0.6)
    return body


def _mount(body: Surface, plan: Generator, look: Generator, rng: Generator, size: float, half_h: float) -> None:
    """Rows, rings or a random but fixed arrangement of components, none on top of another."""
    spots: list[tuple[float, float, float, float, int]] = []
    order = int(plan.integers(3))
    if order == 0:
        columns = int(plan.integers(2, 24))
        lines = int(plan.integers(1, 4)) if half_h * 2 > size * 0.3 else 1
        wide = min(size * 0.86 / columns * plan.uniform(0.45, 0.85), half_h * 1.5 / lines)
        for row in range(lines):
            for column in range(columns):
                px = (column - (columns - 1) / 2) * size * 0.86 / columns
                spots.append((px, (row - (lines - 1) / 2) * half_h * 1.6 / lines, wide, 0.0, 0))
    elif order == 1:
        count, far = int(plan.integers(3, 13)), half_h * plan.uniform(0.45, 0.7)
        wide = min(2 * np.pi * far / count * 0.6, half_h * 0.4)
        for turn in np.arange(count) * 2 * np.pi / count:
            spots.append((far * np.cos(turn), far * np.sin(turn), wide, -float(np.rad2deg(turn)), 0))
    else:
        for _ in range(int(plan.integers(4, 40))):
            kind = int(plan.integers(4))
            wide = half_h * (0.55, 0.3, 0.18, 0.12)[kind]
            px, py = plan.uniform(-0.4, 0.4) * size, plan.uniform(-0.75, 0.75) * half_h
            if all(np.hypot(px - s[0], py - s[1]) > (wide + s[2]) * 0.62 for s in spots):
                spots.append((px, py, wide, float(plan.choice([0, 90])), kind))
    middle = (body.shape[1] / 2, body.shape[0] / 2)
    seeds = plan.integers(2**31, size=4)
    pads = plan.random() < 0.5
    for px, py, least, turn, kind in spots:
        wide = max(least, 3.0)
        if pads:
            spot, dx, dy = near(body, px, py, wide * 0.6)
            paint(spot, cover(box(dx, dy, wide * 0.42, wide * 0.2)) * 0.8, (0.75, 0.62, 0.38), metal=0.4)
        part = _part(np.random.default_rng([int(seeds[kind]), 5]), look, rng, wide)
        body.stamps.append(
            Stamp(part, middle[0] + px + rng.normal(0, wide * 0.012), middle[1] + py, turn + rng.normal(0, 1.2))
        )
