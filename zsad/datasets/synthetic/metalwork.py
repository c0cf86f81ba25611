"""Turned, stamped, cut and wound parts."""

from __future__ import annotations

import numpy as np

from zsad.datasets.synthetic.surface import (
    Surface,
    box,
    clouds,
    cover,
    disc,
    grain,
    grid,
    make,
    pierce,
    rounded,
    scuffs,
    tint,
)

Generator = np.random.Generator


def metal_washer(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    radius = np.sqrt(x * x + y * y)
    outer, inner = size * 0.47, size * look.uniform(0.2, 0.28)
    edge = np.maximum(radius - outer, inner - radius).astype(np.float32)
    steel = tint(look, [(0.6, 0.61, 0.62), (0.7, 0.62, 0.42), (0.5, 0.51, 0.54)][int(look.integers(3))])
    body = make(edge, steel, bevel=size * 0.018, gloss=0.5, metal=0.8, thickness=size * 0.045)
    rings = np.interp(radius.ravel(), np.arange(0, size, 1.5), look.normal(0, 1, len(np.arange(0, size, 1.5))))
    grain(body, rings.reshape(radius.shape).astype(np.float32), 0.018, 0.05)
    return scuffs(body, rng, size)


def hex_nut(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
    sector = np.mod(angle, np.pi / 3) - np.pi / 6
    flat = ring * np.cos(sector) - size * 0.4
    bore = size * look.uniform(0.2, 0.25)
    edge = np.maximum(flat, bore - ring).astype(np.float32)
    body = make(
        edge,
        tint(look, [(0.58, 0.58, 0.6), (0.7, 0.6, 0.36), (0.3, 0.3, 0.32)][int(look.integers(3))]),
        bevel=size * 0.025,
        gloss=0.5,
        metal=0.75,
        thickness=size * 0.2,
    )
    crown = (ring - size * 0.38).astype(np.float32)
    body.height += rounded(crown, size * 0.05) * 0.5
    thread = np.clip(1 - np.abs(ring - bore - size * 0.012) / (size * 0.012), 0, 1)
    body.colour *= (1 - 0.45 * thread)[..., None]
    return scuffs(body, rng, size)


def wood_screw(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.26, size)
    t = (x / size + 0.48) / 0.96
    shank = size * 0.042 * np.clip((1 - t) / 0.14, 0, 1) ** 0.8
    start = look.uniform(0.3, 0.45)
    pitch = size * 0.034
    wave = np.mod(x / pitch + np.sign(y) * 0.25, 1).astype(np.float32)
    ridge = np.abs(wave - 0.5) * 2
    thread = np.clip((t - start) * 25, 0, 1) * (1 - ridge) * size * 0.026 * np.clip((1 - t) / 0.12, 0, 1)
    head = size * (0.042 + 0.075 * np.clip(1 - (t - 0.015) / 0.085, 0, 1) ** 1.2) * (t > 0)
    half = np.maximum(shank + thread, np.where(t < 0.1, head, 0))
    edge = np.maximum(np.abs(y) - half, np.maximum(-t, t - 1) * size * 0.96).astype(np.float32)
    colour = tint(look, [(0.72, 0.6, 0.33), (0.55, 0.56, 0.58), (0.26, 0.26, 0.28)][int(look.integers(3))])
    body = make(edge, colour, bevel=size * 0.045, gloss=0.6, metal=0.75, thickness=size * 0.05)
    slanted = np.abs(np.mod((x + y * 0.18) / pitch, 1) - 0.5) * 2
    threads = (np.clip((t - start) * 25, 0, 1) * (t < 0.985)).astype(np.float32)
    body.height += (1 - slanted) ** 1.5 * size * 0.012 * threads
    body.colour *= (1 - 0.25 * slanted * threads)[..., None]
    return scuffs(body, rng, size)


def dome_rivet(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.34, size)
    t = x / size
    shank = np.where(t < 0.47, size * 0.085, 0)
    dome = size * 0.165 * np.sqrt(np.clip(1 - ((t + 0.34) / 0.145) ** 2, 0, 1)) * (t < -0.34)
    collar = size * 0.165 * (np.abs(t + 0.33) < 0.012)
    half = np.maximum(np.maximum(dome, collar), np.where(t > -0.33, shank, 0))
    edge = np.maximum(np.abs(y) - half, np.abs(x) - size * 0.485).astype(np.float32)
    body = make(
        edge,
        tint(look, [(0.66, 0.67, 0.68), (0.72, 0.48, 0.33), (0.7, 0.6, 0.35)][int(look.integers(3))]),
        bevel=size * 0.09,
        gloss=0.6,
        metal=0.75,
        thickness=size * 0.12,
    )
    grain(body, np.sin(np.broadcast_to(x, body.shape) / size * 400).astype(np.float32), 0.01)
    return scuffs(body, rng, size)


def gear(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
    teeth = int(look.integers(14, 30))
    profile = np.clip(np.cos(angle * teeth) * 1.8, -1, 1)
    edge = np.maximum(ring - size * (0.425 + 0.042 * profile), size * 0.09 - ring).astype(np.float32)
    edge = np.maximum(edge, -box(x, y - size * 0.09, size * 0.022, size * 0.03)).astype(np.float32)
    plastic = look.random() < 0.4
    colour = tint(
        look,
        [(0.88, 0.86, 0.78), (0.2, 0.2, 0.22), (0.75, 0.35, 0.12)][int(look.integers(3))]
        if plastic
        else [(0.56, 0.57, 0.59), (0.7, 0.58, 0.3)][int(look.integers(2))],
    )
    body = make(edge, colour, bevel=size * 0.014, gloss=0.4, metal=0.0 if plastic else 0.7, thickness=size * 0.09)
    web = np.maximum(ring - size * 0.33, size * 0.15 - ring).astype(np.float32)
    body.height -= cover(web) * rounded(web, size * 0.012)
    body.colour *= (1 - 0.12 * cover(web))[..., None]
    holes = int(look.integers(0, 7))
    for turn in np.arange(holes) * 2 * np.pi / max(holes, 1):
        pierce(body, cover(disc(x - size * 0.24 * np.cos(turn), y - size * 0.24 * np.sin(turn), size * 0.05)))
    return scuffs(body, rng, size)


def fan_rotor(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring, angle = np.sqrt(x * x + y * y), np.arctan2(y, x)
    blades = int(look.integers(5, 10))
    swept = np.mod(angle + ring / size * look.uniform(1.0, 2.2), 2 * np.pi / blades) - np.pi / blades
    blade = np.maximum(np.abs(swept) * ring - ring * np.pi / blades * 0.74, ring - size * 0.47)
    hub = ring - size * 0.17
    edge = np.maximum(np.minimum(blade, hub), size * 0.035 - ring).astype(np.float32)
    colour = tint(
        look, [(0.12, 0.12, 0.13), (0.84, 0.84, 0.82), (0.25, 0.4, 0.55), (0.62, 0.63, 0.64)][int(look.integers(4))]
    )
    body = make(edge, colour, bevel=size * 0.012, gloss=0.45, metal=0.1, thickness=size * 0.07)
    body.height += (swept * ring * 0.35).astype(np.float32) * (hub > 0)
    body.height += rounded(hub.astype(np.float32), size * 0.03) * cover(hub.astype(np.float32))
    body.colour *= (1 - 0.3 * cover((np.abs(hub) - size * 0.006).astype(np.float32)))[..., None]
    return scuffs(body, rng, size)


def brass_coin(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size, size)
    ring = np.sqrt(x * x + y * y)
    colour = tint(look, [(0.72, 0.58, 0.28), (0.62, 0.62, 0.62), (0.66, 0.4, 0.26)][int(look.integers(3))])
    body = make(
        (ring - size * 0.47).astype(np.float32),
        colour,
        bevel=size * 0.015,
        gloss=0.45,
        metal=0.6,
        thickness=size * 0.05,
    )
    field = (ring - size * 0.42).astype(np.float32)
    body.height -= cover(field) * size * 0.012
    relief = np.clip(clouds(look, body.shape, size * 0.22, 3) * 1.4, -1, 1) * cover(
        (ring - size * 0.27).astype(np.float32)
    )
    beads = np.cos(np.arctan2(y, x) * 48) * cover((np.abs(ring - size * 0.36) - size * 0.022).astype(np.float32))
    body.height += (relief * size * 0.011 + np.maximum(beads, 0) * size * 0.008).astype(np.float32)
    body.colour *= 1 + 0.1 * (relief - 0.4 * cover(field))[..., None]
    return scuffs(body, rng, size)


def coil_spring(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.26, size)
    turns = int(look.integers(9, 16))
    radius, wire = size * 0.1, size * look.uniform(0.016, 0.022)
    colour = tint(look, [(0.62, 0.63, 0.65), (0.3, 0.3, 0.32), (0.7, 0.58, 0.33)][int(look.integers(3))])
    step = size * 0.9 / turns
    phase = np.arcsin(np.clip(y / radius, -1, 1)) / (2 * np.pi)
    along = x / step + turns / 2
    inside = np.maximum(np.abs(y) - radius - wire * 0.4, np.abs(x) - size * 0.46)
    lean = 1 / np.sqrt(1 + (step / (2 * np.pi * radius)) ** 2)
    front = np.maximum((np.abs(np.mod(along + phase, 1) - 0.5)) * step * lean - wire, inside).astype(np.float32)
    back = np.maximum((np.abs(np.mod(along - phase + 0.5, 1) - 0.5)) * step * lean - wire, inside).astype(np.float32)
    body = make(np.minimum(front, back), colour, bevel=wire, gloss=0.7, metal=0.75, thickness=size * 0.13)
    bulge = np.sqrt(np.clip(1 - (y / (radius + wire)) ** 2, 0, 1)) * radius * 0.35
    body.height = np.where(front < 0.5, rounded(front, wire) + bulge, rounded(back, wire) - bulge * 0.3).astype(
        np.float32
    )
    body.colour *= np.where(front < 0.5, 1.0, 0.55)[..., None].astype(np.float32)
    return scuffs(body, rng, size)
