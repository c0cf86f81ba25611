"""Food and medicine: baked, grown, cast and pressed things."""

from __future__ import annotations

import numpy as np

from zsad.datasets.synthetic.components import pill
from zsad.datasets.synthetic.surface import (
    Stamp,
    Surface,
    box,
    clouds,
    cover,
    disc,
    grain,
    grid,
    make,
    near,
    paint,
    polygon,
    rounded,
    tint,
)

Generator = np.random.Generator


def biscuit(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    angle = np.arctan2(y, x)
    ring = np.sqrt(x * x + y * y)
    scallops = int(look.integers(18, 30))
    outline = size * (
        0.455 + 0.013 * np.abs(np.sin(angle * scallops / 2)) + 0.006 * np.sin(angle * 2 + rng.uniform(0, 6))
    )
    edge = (ring - outline).astype(np.float32)
    colour = tint(look, (0.8, 0.6, 0.34), 0.06)
    body = make(edge, colour, bevel=size * 0.045, gloss=0.1, thickness=size * 0.07, inner=(0.88, 0.74, 0.5))
    toast = np.clip((ring / outline - 0.72) / 0.28, 0, 1) ** 2 + 0.14 * clouds(rng, body.shape, size * 0.3, 3)
    body.colour *= 1 - np.clip(toast, 0, 1)[..., None] * np.array([0.25, 0.36, 0.48], np.float32)
    for radius, number in ((0.0, 1), (0.15, 6), (0.31, 12)):
        for turn in np.arange(number) * 2 * np.pi / number:
            cx, cy = radius * size * np.cos(turn), radius * size * np.sin(turn)
            spot, dx, dy = near(body, cx + rng.normal(0, size * 0.003), cy + rng.normal(0, size * 0.003), size * 0.03)
            paint(spot, cover(disc(dx, dy, size * 0.013)) * 0.6, (0.45, 0.3, 0.16), height=-2.5)
    grain(body, clouds(rng, body.shape, size * 0.05, 4), 0.045, 0.55)
    return body


def salt_cracker(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    wave = size * 0.008 * (np.sin(x / size * 55) + np.sin(y / size * 55))
    body = make(
        (box(x, y, size * 0.455, size * 0.455, size * 0.05) + wave).astype(np.float32),
        tint(look, (0.86, 0.7, 0.44), 0.05),
        bevel=size * 0.03,
        gloss=0.08,
        thickness=size * 0.04,
        inner=(0.92, 0.82, 0.6),
    )
    brown = np.clip(clouds(rng, body.shape, size * 0.18, 4) * 0.16 + 0.1, 0, 0.5)
    body.colour *= 1 - brown[..., None] * np.array([0.5, 0.8, 1.0], np.float32)
    for row in range(4):
        for column in range(4):
            spot, dx, dy = near(body, (column - 1.5) * size * 0.2, (row - 1.5) * size * 0.2, size * 0.03 + 4)
            hole = disc(dx - rng.normal(0, 1), dy - rng.normal(0, 1), size * 0.014)
            paint(spot, cover(hole) * 0.7, (0.4, 0.27, 0.14), height=-2.5)
    for _ in range(int(rng.integers(25, 60))):
        across, down = rng.uniform(-0.42, 0.42, 2) * size
        spot, dx, dy = near(body, across, down, size * 0.03)
        middle = np.array([-dx[0, 0], -dy[0, 0]])
        grainy = polygon(spot.shape, middle + rng.normal(0, size * 0.008, (5, 2)))
        paint(spot, grainy * 0.8, (0.95, 0.94, 0.9), height=1.5, gloss=0.8)
    grain(body, clouds(rng, body.shape, size * 0.07, 4), 0.03, 0.7)
    return body


def macaroni(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.72, size)
    radius = size * look.uniform(0.34, 0.38)
    tube = size * 0.125
    y = y - size * 0.2 + 0 * x
    x = x + 0 * y
    angle = np.arctan2(x, -y)
    reach = look.uniform(1.05, 1.25) + rng.normal(0, 0.05)
    ring = np.sqrt(x * x + y * y)
    past = (np.abs(angle) - reach) * radius
    edge = np.maximum(np.abs(ring - radius) - tube, past).astype(np.float32)
    body = make(
        edge,
        tint(rng, (0.93, 0.78, 0.42), 0.04),
        bevel=tube,
        gloss=0.35,
        thickness=tube * 1.4,
        inner=(0.93, 0.83, 0.55),
    )
    body.height = rounded((np.abs(ring - radius) - tube).astype(np.float32), tube) * cover(past.astype(np.float32))
    grain(body, np.sin((ring - radius) / tube * 9).astype(np.float32), 0.015, tube * 0.025)
    opening = np.clip((past + tube * 0.5) / (tube * 0.3), 0, 1) * cover(
        (np.abs(ring - radius) - tube * 0.55).astype(np.float32)
    )
    body.colour *= (1 - 0.5 * opening.astype(np.float32) * (angle > 0))[..., None]
    grain(body, clouds(rng, body.shape, size * 0.2, 4), 0.045, 0.25)
    return body


def kidney_bean(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.66, size)
    bow = y + size * 0.25 * (x / size) ** 2 * 2.2 - size * 0.08
    waist = size * (0.235 - 0.04 * np.exp(-((x / size / 0.16) ** 2)))
    edge = ((np.sqrt((x / (size * 0.47)) ** 2 + (bow / waist) ** 2) - 1) * size * 0.24).astype(np.float32)
    colours = [(0.42, 0.1, 0.08), (0.75, 0.6, 0.42), (0.12, 0.09, 0.1), (0.58, 0.3, 0.18)]
    body = make(
        edge,
        tint(rng, colours[int(look.integers(4))], 0.08),
        bevel=size * 0.22,
        gloss=0.7,
        thickness=size * 0.22,
        inner=(0.85, 0.76, 0.55),
    )
    scar = box(x, bow - waist * 0.78, size * 0.06, size * 0.02, size * 0.015)
    paint(body, cover(scar.astype(np.float32)), (0.82, 0.76, 0.65), height=-1)
    grain(body, clouds(rng, body.shape, size * 0.15, 4), 0.09, 0.15)
    return body


def chocolate_bar(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.5, size)
    rows, columns = int(look.integers(2, 4)), int(look.integers(4, 7))
    cell_x, cell_y = size * 0.94 / columns, size * 0.46 / rows
    u = np.mod(x / cell_x + columns / 2, 1) - 0.5
    v = np.mod(y / cell_y + rows / 2, 1) - 0.5
    edge = box(x, y, size * 0.485, size * 0.24, size * 0.015)
    colour = tint(look, [(0.27, 0.15, 0.09), (0.42, 0.25, 0.15), (0.88, 0.8, 0.62)][int(look.integers(3))])
    body = make(edge, colour, bevel=size * 0.015, gloss=0.45, thickness=size * 0.06)
    block = box(u * cell_x, v * cell_y, cell_x * 0.46, cell_y * 0.46, cell_x * 0.05)
    body.height += rounded(block, cell_x * 0.13)
    body.colour *= (1 - 0.25 * cover(-block))[..., None]
    stroke = np.abs(box(u * cell_x, v * cell_y, cell_x * 0.2, cell_y * 0.2, cell_x * 0.08)) - cell_x * 0.015
    body.height -= cover(stroke.astype(np.float32)) * 1.5
    grain(body, clouds(rng, body.shape, size * 0.2, 4), 0.035, 0.35)
    return body


def capsule(look: Generator, rng: Generator, size: float) -> Surface:
    pairs = [
        ((0.72, 0.12, 0.1), (0.9, 0.86, 0.74)),
        ((0.1, 0.32, 0.6), (0.88, 0.88, 0.86)),
        ((0.2, 0.45, 0.2), (0.86, 0.78, 0.3)),
        ((0.5, 0.28, 0.1), (0.85, 0.72, 0.5)),
    ]
    left, right = pairs[int(look.integers(len(pairs)))]
    radius = size * 0.165
    x, y = grid(size * 0.36, size)
    seam = (look.uniform(-0.04, 0.06) + rng.normal(0, 0.008)) * size
    wide = np.where(x < seam, radius, radius * 0.94).astype(np.float32)
    along = np.maximum(np.abs(x) - (size * 0.48 - radius), 0)
    edge = (np.sqrt(along * along + y * y) - wide).astype(np.float32)
    body = make(edge, tint(rng, right, 0.02), bevel=radius, gloss=0.85, thickness=radius * 1.1, inner=(0.75, 0.7, 0.6))
    paint(body, np.broadcast_to(cover(x - seam), body.shape), tint(rng, left, 0.02))
    grain(body, clouds(rng, body.shape, size * 0.2, 3), 0.02)
    return body


def chalk_tablet(look: Generator, rng: Generator, size: float) -> Surface:
    colours = [(0.88, 0.87, 0.83), (0.88, 0.68, 0.66), (0.68, 0.8, 0.86), (0.86, 0.82, 0.55), (0.75, 0.84, 0.68)]
    body = pill(look, rng, size, tint(look, colours[int(look.integers(5))]))
    body.thickness, body.inner = size * 0.2, (0.9, 0.89, 0.86)
    body.gloss *= 0.15
    grain(body, clouds(rng, body.shape, size * 0.08, 4), 0.025, 0.25)
    return body


def pill_blister(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.46, size)
    foil = make(
        box(x, y, size * 0.49, size * 0.22, size * 0.025),
        (0.74, 0.75, 0.76),
        bevel=1.5,
        gloss=0.6,
        metal=0.55,
        thickness=size * 0.035,
        inner=(0.6, 0.6, 0.62),
    )
    pitch = size * 0.012
    knurl = np.sin((x + y) / pitch * 2) * np.sin((x - y) / pitch * 2)
    grain(foil, knurl.astype(np.float32), 0.02, pitch * 0.05)
    shape = foil.shape
    colour = [(0.88, 0.86, 0.82), (0.85, 0.5, 0.45), (0.55, 0.7, 0.82), (0.9, 0.8, 0.45)][int(look.integers(4))]
    for column in range(5):
        for row in range(2):
            cx, cy = (column - 2) * size * 0.188, (row - 0.5) * size * 0.2
            spot, dx, dy = near(foil, cx, cy, size * 0.09)
            rim = disc(dx, dy, size * 0.078)
            paint(spot, cover(rim) * 0.75, (0.5, 0.51, 0.53), height=size * 0.008, gloss=0.95)
            spot.height += rounded(rim, size * 0.02) * cover(rim) * 0.5
            offset = rng.normal(0, size * 0.003, 2)
            foil.stamps.append(
                Stamp(
                    pill(look, rng, size * 0.125, colour),
                    shape[1] / 2 + cx + offset[0],
                    shape[0] / 2 + cy + offset[1],
                    rng.uniform(0, 360),
                )
            )
    grain(foil, clouds(rng, shape, size * 0.2, 3), 0.03, 0.35)
    return foil
