"""Closures, candles, soap, buttons and tiles."""

from __future__ import annotations

import numpy as np

from zsad.datasets.synthetic.components import tooth
from zsad.datasets.synthetic.surface import (
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
    paint,
    pierce,
    rounded,
    scuffs,
    tint,
)

Generator = np.random.Generator


def candle(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring = np.sqrt(x * x + y * y)
    angle = np.arctan2(y, x)
    wax = tint(look, [(0.92, 0.9, 0.84), (0.72, 0.2, 0.16), (0.88, 0.78, 0.5), (0.5, 0.6, 0.45)][int(look.integers(4))])
    edge = (ring - size * 0.47).astype(np.float32)
    body = make(
        edge, (0.7, 0.71, 0.72), bevel=size * 0.02, gloss=0.6, metal=0.8, thickness=size * 0.16, inner=(0.9, 0.9, 0.88)
    )
    grain(body, np.sin(angle * 60).astype(np.float32) * (ring > size * 0.435), 0.08, 0.5)
    fill = (ring - size * 0.43).astype(np.float32)
    paint(body, cover(fill), tint(rng, wax, 0.02), height=-2, gloss=0.45, metal=0.0)
    body.height += cover(fill) * (
        clouds(rng, body.shape, size * 0.3, 2) * 0.7 - 3 * np.exp(-((ring / size / 0.12) ** 2))
    )
    grain(body, clouds(rng, body.shape, size * 0.4, 3), 0.02)
    turn = rng.uniform(0, 2 * np.pi)
    tip = np.array([np.cos(turn), np.sin(turn)]) * size * rng.uniform(0.06, 0.1)
    middle = np.array([size / 2, size / 2])
    dark = disc(x + 2, y + 2, size * 0.026)
    paint(body, cover(dark), (0.55, 0.55, 0.56), metal=0.6, height=1)
    paint(
        body,
        line(body.shape, [middle, middle + tip * 0.6 + rng.normal(0, 1.5, 2), middle + tip], size * 0.017),
        (0.83, 0.8, 0.72),
        height=size * 0.012,
    )
    return body


def soap_bar(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.66, size)
    edge = box(x, y, size * 0.47, size * 0.3, size * 0.14)
    colours = [(0.9, 0.87, 0.78), (0.85, 0.62, 0.66), (0.55, 0.72, 0.6), (0.8, 0.68, 0.35), (0.62, 0.7, 0.84)]
    body = make(edge, tint(look, colours[int(look.integers(5))]), bevel=size * 0.13, gloss=0.4, thickness=size * 0.16)
    frame = (np.abs(box(x, y, size * 0.33, size * 0.17, size * 0.1)) - size * 0.012).astype(np.float32)
    body.height -= cover(frame) * 3
    letters = look.uniform(-0.2, 0.2, (5, 2)) * size * np.array([1.0, 0.45])
    stroke = line(body.shape, letters + np.array([size / 2, size * 0.33]), size * 0.02)
    body.height -= stroke * 3
    grain(body, clouds(rng, body.shape, size * 0.4, 4), 0.02, 0.8)
    return body


def coat_button(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring = np.sqrt(x * x + y * y)
    colours = [(0.16, 0.16, 0.2), (0.45, 0.28, 0.16), (0.78, 0.7, 0.55), (0.3, 0.1, 0.12), (0.15, 0.28, 0.35)]
    body = make(
        (ring - size * 0.46).astype(np.float32),
        tint(look, colours[int(look.integers(5))]),
        bevel=size * 0.06,
        gloss=0.65,
        thickness=size * 0.08,
    )
    bowl = (ring - size * 0.34).astype(np.float32)
    body.height -= rounded(bowl, size * 0.05) * cover(bowl) * 0.7
    marble = np.sin(clouds(rng, body.shape, size * 0.5, 4) * 2.2 + x / size * 9).astype(np.float32)
    grain(body, marble, 0.11)
    for cx in (-0.085, 0.085):
        for cy in (-0.085, 0.085):
            hole = disc(x - cx * size, y - cy * size, size * 0.042)
            body.height -= cover(hole - size * 0.012) * 1.5
            pierce(body, cover(hole))
    grain(body, clouds(rng, body.shape, size * 0.1, 3), 0.015, 0.12)
    return body


def bottle_cap(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
    flutes = np.cos(angle * 21)
    edge = (ring - size * (0.455 + 0.018 * flutes)).astype(np.float32)
    colours = [(0.75, 0.1, 0.1), (0.1, 0.3, 0.6), (0.82, 0.66, 0.2), (0.1, 0.4, 0.22), (0.85, 0.85, 0.83)]
    first = int(look.integers(5))
    body = make(
        edge,
        tint(look, colours[first]),
        bevel=size * 0.1,
        gloss=0.75,
        metal=0.25,
        thickness=size * 0.12,
        inner=(0.7, 0.7, 0.7),
    )
    skirt = np.clip((ring / size - 0.36) / 0.06, 0, 1)
    body.height += (flutes * skirt * size * 0.012).astype(np.float32)
    second = tint(look, colours[(first + int(look.integers(1, 5))) % 5])
    logo = np.abs(ring - size * 0.27) - size * 0.012
    if look.random() < 0.5:
        star = ring - size * (0.13 + 0.05 * np.cos(angle * 5))
    else:
        star = box(x, y, size * 0.15, size * 0.06, size * 0.03)
    paint(body, cover(np.minimum(logo, star).astype(np.float32)) * 0.95, second)
    return scuffs(body, rng, size)


def jar_lid(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring = np.sqrt(x * x + y * y)
    colours = [(0.75, 0.6, 0.25), (0.8, 0.8, 0.8), (0.2, 0.35, 0.25), (0.6, 0.15, 0.15), (0.15, 0.2, 0.4)]
    body = make(
        (ring - size * 0.475).astype(np.float32),
        tint(look, colours[int(look.integers(5))]),
        bevel=size * 0.035,
        gloss=0.7,
        metal=0.35,
        thickness=size * 0.1,
        inner=(0.7, 0.7, 0.7),
    )
    for radius in look.choice([0.12, 0.2, 0.28, 0.36, 0.41], 3, replace=False):
        step = np.clip((ring / size - radius) / 0.015, -1, 1)
        body.height -= (step * size * 0.008).astype(np.float32)
    band = np.abs(ring - size * 0.32) - size * 0.02
    paint(body, cover(band.astype(np.float32)) * 0.8, tint(look, colours[int(look.integers(5))]))
    return scuffs(body, rng, size)


def zipper(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.16, size)
    cloth = tint(
        look, [(0.12, 0.13, 0.17), (0.5, 0.1, 0.12), (0.2, 0.3, 0.45), (0.62, 0.55, 0.42)][int(look.integers(4))]
    )
    body = make(
        box(x, y, size * 0.492, size * 0.07, 2),
        cloth,
        bevel=2,
        gloss=0.03,
        thickness=size * 0.01,
        inner=(0.6, 0.6, 0.58),
    )
    thread = max(size * 0.0035, 2.2)
    weave = np.sin(x / thread * 2.6 + np.abs(y) / thread * 1.3) * np.cos(y / thread * 2.2)
    grain(body, weave.astype(np.float32), 0.12, 0.5)
    grain(body, clouds(rng, body.shape, size * 0.1, 4), 0.04)
    count = int(look.integers(26, 38))
    step = size * 0.95 / count
    brass = [(0.74, 0.62, 0.32), (0.62, 0.63, 0.65), (0.35, 0.33, 0.32)][int(look.integers(3))]
    for number in range(count):
        side = 1 if number % 2 else -1
        px = size / 2 + (number - (count - 1) / 2) * step + rng.normal(0, step * 0.015)
        body.stamps.append(
            Stamp(
                tooth(look, rng, size * 0.05, step * 1.15, brass),
                px,
                body.shape[0] / 2 + side * size * 0.0105,
                90 * side + rng.normal(0, 1.0),
            )
        )
    return body


def ceramic_tile(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    glaze = tint(look, [(0.88, 0.87, 0.83), (0.62, 0.72, 0.74), (0.8, 0.7, 0.55)][int(look.integers(3))])
    ink = tint(look, [(0.15, 0.25, 0.5), (0.5, 0.22, 0.12), (0.2, 0.4, 0.3)][int(look.integers(3))])
    body = make(
        box(x, y, size * 0.475, size * 0.475, size * 0.012),
        glaze,
        bevel=size * 0.012,
        gloss=0.6,
        thickness=size * 0.03,
        inner=(0.72, 0.45, 0.32),
    )
    ax, ay = np.abs(x) + 0 * y, np.abs(y) + 0 * x
    petals = int(look.choice([4, 8]))
    ring, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
    flower = ring - size * (0.2 + 0.09 * np.cos(angle * petals))
    corner = np.abs(disc(ax - size * 0.47, ay - size * 0.47, size * 0.2)) - size * 0.012
    frame = np.abs(np.maximum(ax, ay) - size * 0.43) - size * 0.007
    pattern = np.minimum(np.minimum(np.abs(flower) - size * 0.012, corner), np.minimum(frame, ring - size * 0.06))
    wash = 0.85 + 0.06 * clouds(rng, body.shape, size * 0.2, 3)
    paint(body, (cover(pattern.astype(np.float32)) * np.clip(wash, 0, 1)).astype(np.float32), ink)
    grain(body, clouds(rng, body.shape, size * 0.35, 4), 0.018, 0.5)
    return body
