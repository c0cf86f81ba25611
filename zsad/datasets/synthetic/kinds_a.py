"""Kinds A: what the bundled models are trained on. None of them, and none of their nouns, is in kinds B."""

from __future__ import annotations

import numpy as np

from zsad.datasets.synthetic.components import chip, pill, resistor, screw_head
from zsad.datasets.synthetic.kinds import Kind
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
METAL = ("scratch", "dent", "stain", "contamination")
FOOD = ("crack", "break", "stain", "hole", "contamination")


def memory_module(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.27, size)
    colour = tint(look, [(0.06, 0.28, 0.14), (0.1, 0.1, 0.12), (0.5, 0.1, 0.1)][int(look.integers(3))])
    body = make(
        box(x, y, size * 0.49, size * 0.125, 2),
        colour,
        bevel=1.5,
        gloss=0.3,
        thickness=size * 0.015,
        inner=(0.6, 0.58, 0.4),
    )
    shape = body.shape
    fingers = np.maximum(
        np.abs(np.mod(x / size * 60, 1) - 0.5) * size / 60 - size * 0.0055, np.abs(y - size * 0.108) - size * 0.016
    )
    fingers = np.maximum(fingers, np.abs(x) - size * 0.47)
    paint(body, cover(fingers.astype(np.float32)), (0.83, 0.68, 0.33), gloss=0.7, metal=0.6)
    pierce(body, cover(box(x - size * 0.04, y - size * 0.12, size * 0.008, size * 0.025)))
    chips = int(look.choice([8, 9]))
    for number in range(chips):
        px = size * (0.5 + (number - (chips - 1) / 2) * 0.107) + rng.normal(0, size * 0.0007)
        body.stamps.append(Stamp(chip(look, rng, size * 0.105), px, shape[0] * 0.44, 90 + rng.normal(0, 0.5)))
    for number in range(2 * chips):
        px = size * (0.5 + (number - chips + 0.5) * 0.053)
        body.stamps.append(Stamp(resistor(look, rng, size * 0.02), px, shape[0] * 0.76, rng.normal(0, 1)))
    grain(body, noise(rng, shape, 3), 0.012, 0.04)
    return body


def chalk_tablet(look: Generator, rng: Generator, size: float) -> Surface:
    colours = [(0.88, 0.87, 0.83), (0.88, 0.68, 0.66), (0.68, 0.8, 0.86), (0.86, 0.82, 0.55), (0.75, 0.84, 0.68)]
    body = pill(look, rng, size, tint(look, colours[int(look.integers(5))]))
    body.thickness, body.inner = size * 0.2, (0.9, 0.89, 0.86)
    body.gloss *= 0.15
    grain(body, clouds(rng, body.shape, size * 0.08, 4), 0.025, 0.25)
    return body


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
        spot, dx, dy = near(body, *(rng.uniform(-0.42, 0.42, 2) * size), size * 0.03)
        middle = np.array([-dx[0, 0], -dy[0, 0]])
        grainy = polygon(spot.shape, middle + rng.normal(0, size * 0.008, (5, 2)))
        paint(spot, grainy * 0.8, (0.95, 0.94, 0.9), height=1.5, gloss=0.8)
    grain(body, clouds(rng, body.shape, size * 0.07, 4), 0.03, 0.7)
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


def terminal_block(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.12, size)
    colour = tint(
        look, [(0.2, 0.5, 0.28), (0.82, 0.82, 0.8), (0.16, 0.17, 0.2), (0.75, 0.42, 0.14)][int(look.integers(4))]
    )
    body = make(box(x, y, size * 0.492, size * 0.053, 2), colour, bevel=3, gloss=0.35, thickness=size * 0.03)
    count = int(look.integers(12, 16))
    step = size * 0.96 / count
    walls = np.abs(np.mod(x / step + count / 2, 1) - 0.5) * step
    paint(
        body,
        np.broadcast_to(cover((step * 0.46 - walls).astype(np.float32)), body.shape) * 0.6,
        tuple(0.5 * c for c in colour),
        height=-2,
    )
    for number in range(count):
        px = size / 2 + (number - (count - 1) / 2) * step
        for side in (-1, 1):
            spot, dx, dy = near(body, px - size / 2, side * size * 0.026, step * 0.35)
            paint(spot, cover(disc(dx, dy, step * 0.3)), (0.12, 0.12, 0.12), height=-2)
            head = screw_head(look, rng, min(step * 0.54, size * 0.045))
            body.stamps.append(Stamp(head, px, body.shape[0] / 2 + side * size * 0.026, rng.uniform(0, 180)))
    grain(body, noise(rng, body.shape, 2), 0.012, 0.05)
    return body


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


def ribbon_cable(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.15, size)
    wires = int(look.integers(8, 15))
    pitch = size * 0.11 / wires
    sway = size * 0.004 * np.sin(x / size * look.uniform(2, 7) + look.uniform(0, 6))
    across = (y - sway) / pitch + wires / 2
    number = np.clip(np.floor(across), 0, wires - 1).astype(int)
    rainbow = look.random() < 0.6
    colours = np.array(
        [
            (0.45, 0.25, 0.12),
            (0.7, 0.1, 0.1),
            (0.85, 0.45, 0.1),
            (0.85, 0.75, 0.2),
            (0.15, 0.5, 0.2),
            (0.12, 0.25, 0.6),
            (0.45, 0.2, 0.5),
            (0.5, 0.5, 0.5),
            (0.85, 0.85, 0.85),
            (0.1, 0.1, 0.1),
        ],
        np.float32,
    )
    palette = colours[np.arange(wires) % 10] if rainbow else np.full((wires, 3), 0.58, np.float32)
    if not rainbow:
        palette[0] = (0.65, 0.12, 0.12)
    edge = np.maximum(np.abs(y - sway) - pitch * wires / 2, np.abs(x) - size * 0.47).astype(np.float32)
    body = make(
        edge,
        palette[number] * tint(rng, (0.97, 0.97, 0.97), 0.02)[0],
        bevel=1.5,
        gloss=0.4,
        thickness=size * 0.02,
        inner=(0.75, 0.5, 0.3),
    )
    body.height += (pitch * 0.5 * np.sqrt(np.clip(1 - (2 * (across - number) - 1) ** 2, 0, 1))).astype(np.float32)
    for side in (-1, 1):
        plug = box(x - side * size * 0.455, y, size * 0.035, size * 0.066, 2)
        body.cover = np.maximum(body.cover, cover(plug))
        paint(body, cover(plug), (0.12, 0.12, 0.13), gloss=0.3)
        body.height = body.height * (1 - cover(plug)) + (rounded(plug, 3) + pitch) * cover(plug)
        for pin in range(wires):
            spot, dx, dy = near(body, side * size * 0.455, (pin - (wires - 1) / 2) * pitch, size * 0.015)
            paint(spot, cover(box(dx, dy, size * 0.012, pitch * 0.2)), (0.75, 0.66, 0.4), metal=0.5)
    grain(body, clouds(rng, body.shape, size * 0.1, 3), 0.02, 0.08)
    return body


KINDS: tuple[Kind, ...] = (
    Kind(
        "memory_module",
        memory_module,
        ("missing", "misplaced", "scratch", "stain", "hole", "contamination"),
        (1, 2),
        3.7,
    ),
    Kind("chalk_tablet", chalk_tablet, (*FOOD, "scratch"), (4, 20)),
    Kind("hex_nut", hex_nut, (*METAL, "break"), (1, 9)),
    Kind("dome_rivet", dome_rivet, (*METAL, "bend", "break"), (1, 4), 3.0),
    Kind("kidney_bean", kidney_bean, FOOD, (4, 20), 1.5),
    Kind("salt_cracker", salt_cracker, FOOD, (1, 4), 1.0, False),
    Kind("soap_bar", soap_bar, ("dent", "scratch", "crack", "stain", "hole", "contamination"), (1, 3), 1.5),
    Kind(
        "terminal_block",
        terminal_block,
        ("missing", "misplaced", "crack", "scratch", "stain", "contamination"),
        (1, 2),
        8.5,
        False,
    ),
    Kind("fan_rotor", fan_rotor, (*METAL, "break", "crack"), (1, 4)),
    Kind("brass_coin", brass_coin, (*METAL, "bend", "hole"), (1, 9)),
    Kind("jar_lid", jar_lid, (*METAL, "bend", "hole"), (1, 6)),
    Kind("chocolate_bar", chocolate_bar, FOOD, (1, 2), 2.0),
    Kind("coil_spring", coil_spring, ("bend", "break", "stain", "contamination", "scratch"), (1, 3), 4.0),
    Kind(
        "ribbon_cable", ribbon_cable, ("scratch", "break", "hole", "stain", "bend", "contamination"), (1, 2), 7.0, False
    ),
)
