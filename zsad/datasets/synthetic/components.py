"""Small parts that are mounted on boards, strips and blisters."""

from __future__ import annotations

import numpy as np

from zsad.datasets.synthetic.surface import (
    Colour,
    Surface,
    box,
    clouds,
    cover,
    disc,
    grain,
    grid,
    make,
    noise,
    paint,
    rounded,
    tint,
)

Generator = np.random.Generator


def chip(look: Generator, rng: Generator, size: float) -> Surface:
    """Integrated circuit with legs on two sides."""
    x, y = grid(size * 0.8, size)
    legs = np.maximum(
        np.abs(np.mod(x / size * 9, 1) - 0.5) * size / 9 - size * 0.03, box(x, y, size * 0.45, size * 0.39)
    )
    body = make(legs.astype(np.float32), (0.72, 0.72, 0.7), bevel=1.2, gloss=0.7, metal=0.6)
    package = box(x, y, size * 0.47, size * 0.29, 2)
    body.cover = np.maximum(body.cover, cover(package))
    paint(body, cover(package), tint(rng, (0.1, 0.1, 0.11), 0.03), gloss=0.15, metal=0.0)
    body.height = np.maximum(body.height * (1 - cover(package)), rounded(package, size * 0.04) + 1.5 * cover(package))
    paint(body, cover(disc(x + size * 0.38, y - size * 0.2, size * 0.03)), (0.2, 0.2, 0.21), height=-1)
    for row in (-0.08, 0.06):
        letters = np.maximum(np.abs(y - row * size) - size * 0.025, np.abs(x) - size * 0.3)
        print_ = cover(letters.astype(np.float32)) * (noise(rng, body.shape, 2, size * 0.03) > -0.1)
        paint(body, print_.astype(np.float32) * 0.6, (0.6, 0.6, 0.58))
    grain(body, noise(rng, body.shape, 1.5), 0.03, 0.05)
    return body


def resistor(look: Generator, rng: Generator, size: float) -> Surface:
    """Chip resistor with two solder ends."""
    x, y = grid(size * 0.56, size)
    body = make(box(x, y, size * 0.46, size * 0.24, 1), (0.76, 0.76, 0.74), bevel=size * 0.06, gloss=0.8, metal=0.6)
    middle = cover(np.abs(x) - size * 0.27 + 0 * y)
    paint(
        body,
        middle,
        tint(rng, [(0.09, 0.09, 0.1), (0.45, 0.33, 0.2)][int(look.integers(2))], 0.03),
        gloss=0.3,
        metal=0.0,
    )
    paint(body, cover(box(x, y, size * 0.12, size * 0.05)) * 0.7, (0.75, 0.75, 0.73))
    return body


def capacitor(look: Generator, rng: Generator, size: float) -> Surface:
    """Electrolytic capacitor seen from above."""
    x, y = grid(size, size)
    body = make(disc(x, y, size * 0.46), (0.74, 0.75, 0.76), bevel=size * 0.08, gloss=0.6, metal=0.6, level=2)
    top = disc(x, y, size * 0.38)
    shade = cover(top) * cover((y + 0 * x + size * 0.12).astype(np.float32))
    paint(body, shade, (0.12, 0.12, 0.15), gloss=0.3, metal=0.0)
    cross = np.minimum(np.abs(x) + 0 * y, np.abs(y) + 0 * x) - size * 0.012
    body.height -= cover(np.maximum(cross, top)) * 0.8
    grain(body, clouds(rng, body.shape, size * 0.4, 3), 0.03)
    return body


def connector(look: Generator, rng: Generator, size: float) -> Surface:
    """Pin header in a plastic shell."""
    x, y = grid(size * 0.36, size)
    body = make(
        box(x, y, size * 0.48, size * 0.16, 2), tint(look, (0.86, 0.85, 0.78)), bevel=size * 0.02, gloss=0.3, level=3
    )
    paint(body, cover(box(x, y, size * 0.44, size * 0.11)), (0.5, 0.49, 0.44), height=-3)
    pins = np.maximum(np.abs(np.mod(x / size * 8, 1) - 0.5) * size / 8, np.abs(y)) - size * 0.022
    pins = np.maximum(pins, np.abs(x) - size * 0.43)
    paint(body, cover(pins.astype(np.float32)), (0.85, 0.74, 0.4), height=2, gloss=0.9, metal=0.6)
    grain(body, noise(rng, body.shape, 2), 0.01)
    return body


def led(look: Generator, rng: Generator, size: float) -> Surface:
    """Surface-mounted light-emitting diode."""
    x, y = grid(size, size)
    body = make(box(x, y, size * 0.47, size * 0.45, 1), (0.9, 0.9, 0.87), bevel=size * 0.06, gloss=0.3, level=1)
    lens = disc(x, y, size * 0.34)
    paint(body, cover(lens), tint(rng, (0.9, 0.8, 0.35), 0.03), height=-0.6, gloss=0.9)
    paint(body, cover(disc(x - size * 0.05, y, size * 0.09)) * 0.5, (0.6, 0.45, 0.15))
    for side in (-1, 1):
        paint(body, cover(box(x - side * size * 0.43, y, size * 0.06, size * 0.3)), (0.75, 0.75, 0.73), metal=0.6)
    return body


def pill(look: Generator, rng: Generator, size: float, colour: Colour) -> Surface:
    """Round tablet with a score line, seen through its blister."""
    x, y = grid(size, size)
    edge = disc(x, y, size * 0.46)
    body = make(edge, tint(rng, colour, 0.02), bevel=size * 0.16, gloss=0.6)
    body.height -= cover((np.abs(y) - size * 0.02 + 0 * x).astype(np.float32)) * size * 0.02
    grain(body, clouds(rng, body.shape, size * 0.15, 3), 0.02, 0.1)
    return body


def tooth(look: Generator, rng: Generator, length: float, width: float, colour: Colour) -> Surface:
    """Zipper tooth."""
    x, y = grid(width * 1.3, length)
    taper = width * (0.5 - 0.12 * np.clip(x / length * 2, -1, 1))
    edge = np.maximum(np.abs(y) - taper, np.abs(x) - length * 0.48).astype(np.float32)
    body = make(edge, tint(rng, colour, 0.03), bevel=width * 0.35, gloss=0.7, metal=0.6)
    body.height -= cover(disc(x - length * 0.25, y, width * 0.2)) * 1.2
    return body


def screw_head(look: Generator, rng: Generator, size: float) -> Surface:
    """Slotted or crossed screw head seen from above."""
    x, y = grid(size, size)
    body = make(disc(x, y, size * 0.46), tint(rng, (0.66, 0.66, 0.66), 0.03), bevel=size * 0.15, gloss=0.7, metal=0.75)
    slot = box(x, y, size * 0.4, size * 0.055)
    if look.random() < 0.5:
        slot = np.minimum(slot, box(x, y, size * 0.055, size * 0.4))
    body.height -= cover(slot) * size * 0.08
    body.colour *= (1 - 0.55 * cover(slot))[..., None]
    return body
