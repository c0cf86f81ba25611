"""Kinds B: what the bundled models are evaluated on. They never occur in training."""

from __future__ import annotations

import cv2
import numpy as np

from zsad.datasets.synthetic.components import capacitor, chip, connector, led, pill, resistor, tooth
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
    rounded,
    scuffs,
    tint,
)

Generator = np.random.Generator
METAL = ("scratch", "dent", "stain", "contamination")
FOOD = ("crack", "break", "stain", "hole", "contamination")


def circuit_board(look: Generator, rng: Generator, size: float) -> Surface:
    variant = int(look.integers(3))
    plan = np.random.default_rng(100 + variant)
    x, y = grid(size * 0.66, size)
    edge = box(x, y, size * 0.49, size * 0.32, size * 0.02)
    green = tint(look, [(0.07, 0.33, 0.17), (0.05, 0.22, 0.38), (0.12, 0.38, 0.12)][variant])
    board = make(edge, green, bevel=2, gloss=0.35, thickness=size * 0.02, inner=(0.62, 0.6, 0.42))
    shape = board.shape
    for _ in range(26):
        corner = plan.uniform((0.05, 0.05), (0.95, 0.6)) * size
        bend = corner + plan.uniform(-0.2, 0.2, 2) * size * plan.permutation([1, 0])
        end = bend + plan.uniform(-0.12, 0.12) * size * plan.choice([(1, 1), (1, -1)])
        track = line(shape, [corner, bend, end], size * 0.005)
        paint(board, track * 0.7, (green[0] * 1.3 + 0.03, green[1] * 1.3 + 0.03, green[2] * 1.25), height=0.7)
    for _ in range(40):
        cx, cy = plan.uniform((-0.46, -0.3), (0.46, 0.3)) * size
        spot, dx, dy = near(board, cx, cy, size * 0.01)
        via = disc(dx, dy, size * 0.006)
        paint(spot, cover(via), (0.78, 0.68, 0.38), metal=0.5)
        paint(spot, cover(via + size * 0.003), (0.06, 0.07, 0.06))
    for cx in (-0.455, 0.455):
        for cy in (-0.285, 0.285):
            spot, dx, dy = near(board, cx * size, cy * size, size * 0.04)
            hole = disc(dx, dy, size * 0.017)
            paint(spot, cover(hole - size * 0.009), (0.8, 0.74, 0.5), metal=0.7)
            pierce(spot, cover(hole))
    makers = [chip, chip, connector, *[capacitor] * 3, *[resistor] * 16]
    taken: list[tuple[float, float, float]] = []
    for number, maker in enumerate(makers):
        length = size * (plan.uniform(0.13, 0.2) if number < 3 else 0.085 if number < 6 else 0.05)
        for _ in range(60):
            px, py = plan.uniform((0.12, 0.1), (0.88, 0.56)) * size
            if all(np.hypot(px - qx, py - qy) > (length + other) * 0.62 for qx, qy, other in taken):
                break
        else:
            continue
        taken.append((px, py, length))
        quarter = float(plan.integers(4) * 90)
        angle = quarter + rng.normal(0, 0.6)
        for side in (-1, 1) if maker is resistor else ():
            sx, sy = np.cos(np.deg2rad(quarter)) * side, np.sin(np.deg2rad(quarter)) * side
            spot, dx, dy = near(board, px - size / 2 + sx * length * 0.4, py - shape[0] / 2 - sy * length * 0.4, length)
            pad = box(dx, dy, length * 0.24, length * 0.24, 2)
            paint(spot, cover(pad), (0.7, 0.7, 0.68), gloss=0.7, metal=0.5)
        jitter = rng.normal(0, size * 0.0008, 2)
        board.stamps.append(Stamp(maker(look, rng, length), px + jitter[0], py + jitter[1], angle))
        paint(
            board,
            _text(
                shape,
                f"{'UUJCCC'[number] if number < 6 else 'R'}{number}",
                px - length * 0.4,
                py - length * 0.55,
                size * 0.00055,
            )
            * 0.8,
            (0.9, 0.9, 0.88),
        )
    grain(board, noise(rng, shape, 3), 0.012, 0.04)
    grain(board, clouds(rng, shape, size * 0.3, 2), 0.025)
    return board


def _text(shape: tuple[int, int], text: str, x: float, y: float, scale: float) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    cv2.putText(
        canvas, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(int(round(scale * 2)), 1), cv2.LINE_AA
    )
    return canvas.astype(np.float32) / 255


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


def led_strip(look: Generator, rng: Generator, size: float) -> Surface:
    x, y = grid(size * 0.085, size)
    count = int(look.integers(22, 30))
    white = look.random() < 0.6
    base = tint(look, (0.87, 0.87, 0.84) if white else (0.72, 0.42, 0.18))
    body = make(
        box(x, y, size * 0.492, size * 0.036, 2),
        base,
        bevel=1.5,
        gloss=0.3,
        thickness=size * 0.008,
        inner=(0.7, 0.5, 0.3),
    )
    step = size * 0.96 / count
    for number in range(count + 1):
        cx = (number - count / 2) * step
        if number % 3 == 0:
            for cy in (-0.022, 0.0, 0.022):
                paint(
                    body, cover(box(x - cx, y - cy * size, step * 0.14, size * 0.007, 2)), (0.8, 0.6, 0.35), metal=0.5
                )
            paint(body, cover(np.abs(x - cx) - 0.5 + 0 * y), (0.25, 0.25, 0.25))
        if number < count:
            side = min(step * 0.52, size * 0.046)
            px = cx + step / 2 + size / 2 + rng.normal(0, side * 0.01)
            body.stamps.append(Stamp(led(look, rng, side), px, body.shape[0] / 2, rng.normal(0, 0.7)))
            if number % 3 == 1:
                body.stamps.append(Stamp(resistor(look, rng, step * 0.34), cx + size / 2, body.shape[0] * 0.5, 90))
    grain(body, noise(rng, body.shape, 3), 0.01, 0.04)
    return body


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


KINDS: tuple[Kind, ...] = (
    Kind(
        "circuit_board",
        circuit_board,
        ("missing", "misplaced", "scratch", "stain", "hole", "contamination"),
        slender=1.5,
    ),
    Kind("capsule", capsule, ("crack", "dent", "scratch", "stain", "hole", "contamination"), (5, 20), 2.7),
    Kind("metal_washer", metal_washer, (*METAL, "break"), (1, 9)),
    Kind("wood_screw", wood_screw, (*METAL, "bend", "break"), (1, 4), 4.0),
    Kind("macaroni", macaroni, FOOD, (4, 20), 1.3),
    Kind("biscuit", biscuit, FOOD, (1, 4)),
    Kind("candle", candle, ("dent", "scratch", "crack", "stain", "hole", "contamination"), (1, 6)),
    Kind(
        "led_strip",
        led_strip,
        ("missing", "misplaced", "scratch", "stain", "bend", "contamination"),
        (1, 2),
        12.0,
        False,
    ),
    Kind("gear", gear, (*METAL, "break", "crack"), (1, 4)),
    Kind("coat_button", coat_button, ("crack", "break", "scratch", "stain", "contamination"), (1, 9)),
    Kind("bottle_cap", bottle_cap, (*METAL, "bend"), (1, 9)),
    Kind("pill_blister", pill_blister, ("missing", "misplaced", "dent", "hole", "stain", "contamination"), (1, 2), 2.1),
    Kind("zipper", zipper, ("missing", "misplaced", "hole", "stain", "bend", "contamination"), (1, 2), 6.5, False),
    Kind("ceramic_tile", ceramic_tile, ("crack", "break", "scratch", "stain", "hole"), (1, 1), 1.0, False),
)
