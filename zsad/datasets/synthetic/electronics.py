"""Boards, modules, strips and cables."""

from __future__ import annotations

import cv2
import numpy as np

from zsad.datasets.synthetic.components import capacitor, chip, connector, led, resistor, screw_head
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
    tint,
)

Generator = np.random.Generator


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
        canvas, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(round(scale * 2), 1), cv2.LINE_AA
    )
    return canvas.astype(np.float32) / 255


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
        (0.5 * colour[0], 0.5 * colour[1], 0.5 * colour[2]),
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
