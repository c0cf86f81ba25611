"""The picture of ``zsad explain``, after Fig. 1 of the paper: one row per part of the pipeline, 1600 pixels wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from zsad.errors import ZsadError
from zsad.method.tiling import Tile
from zsad.report.explain import Alignment, Explanation
from zsad.report.explain_foreground import foreground_row
from zsad.report.overlay import Picture, blend, draw_boxes, grey, heat, resize_values
from zsad.report.panels import (
    ALARM,
    COMPONENTS,
    FAINT,
    GAP,
    MARGIN,
    PAIR,
    UNIT,
    WIDTH,
    Line,
    colour_bar,
    column,
    fit,
    page,
    panel,
    row,
    text_block,
)
from zsad.text import count

SHOWN_PROMPTS = 18


def write_figure(explanation: Explanation, path: Path) -> None:
    """Draw the picture into a PNG file. Raises ZsadError if it cannot be written."""
    try:
        Image.fromarray(draw_explanation(explanation)).save(path, "PNG")
    except OSError as error:
        raise ZsadError(
            f"Cannot write {str(path)!r}: {error.strerror or error}. Give another file with --output."
        ) from None


def draw_explanation(explanation: Explanation) -> Picture:
    """The whole picture: (H, 1600, 3) uint8, where H follows from the shape of the photograph."""
    rows = [_heading(explanation)]
    for title, panels in (
        ("1  Foreground extraction: IS-Net and SAM", foreground_row(explanation)),
        ("2  Image tiling and tile-level predictor: CLIP", _tile_row(explanation)),
        ("3  Pixel-level predictor: CLIPSeg, for the tile of the highest score", _prompt_row(explanation)),
        ("4  Prediction aggregation", _aggregation_row(explanation)),
    ):
        rows.append(column([_rule(), text_block([Line(title, 22)], WIDTH - 2 * MARGIN), row(panels, GAP)], 12))
    return page(rows, GAP, MARGIN)


def _heading(explanation: Explanation) -> Picture:
    item = explanation.item
    left = [
        Line(explanation.name, 28),
        Line(
            f'"{item.class_name}", {item.width} x {item.height} pixels, preset {explanation.config.preset}', 17, FAINT
        ),
    ]
    if explanation.untrained:
        weights = ", ".join(explanation.untrained)
        left.append(Line(f"Random, untrained weights ({weights}): the numbers mean nothing.", 17, ALARM))
    right = [Line(f"score {explanation.score:.4f}", 28), Line("0 to 1, higher = more anomalous", 17, FAINT)]
    return row([text_block(left, WIDTH - 2 * MARGIN - UNIT - GAP), text_block(right, UNIT)], GAP)


def _rule() -> Picture:
    return np.full((1, WIDTH - 2 * MARGIN, 3), 205, np.uint8)


def _tile_row(explanation: Explanation) -> list[Picture]:
    best = explanation.item.tiles[explanation.best]
    closeup = fit(_closeup(explanation.photograph, best), UNIT, UNIT)
    caption = [f"{best.x1 - best.x0} x {best.y1 - best.y0} pixels", *_tile_arithmetic(explanation)]
    prompts = [*_prompt_lines("anomalous", explanation.anomalous), *_prompt_lines("normal", explanation.normal)]
    return [
        _tile_panel(explanation),
        panel("Tile of the highest score", closeup, caption, UNIT),
        text_block(prompts, UNIT),
    ]


def _closeup(photograph: Picture, tile: Tile) -> Picture:
    """The tile, its padding shown as the models see it; of a very large one only every nth pixel."""
    step = max(1, (tile.x1 - tile.x0) // 2048)
    rows = np.clip(np.arange(tile.y0, tile.y1, step), 0, photograph.shape[0] - 1)
    columns = np.clip(np.arange(tile.x0, tile.x1, step), 0, photograph.shape[1] - 1)
    return photograph[rows[:, None], columns]


def _tile_panel(explanation: Explanation) -> Picture:
    item, scores = explanation.item, explanation.tile_scores
    picture = fit(explanation.photograph, PAIR, 560)
    scale = picture.shape[1] / item.width
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    tiles = [item.tiles[i] for i in order]
    boxes = np.rint(np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in tiles]) * scale).astype(np.int64)
    colours = [COMPONENTS[tile.component % len(COMPONENTS)] for tile in tiles]
    several = item.num_components > 1
    labels = [f"{item.tiles[i].component}: {scores[i]:.3f}" if several else f"{scores[i]:.3f}" for i in order]
    if len(tiles) > 1:
        picture = draw_boxes(picture, boxes[:1], [""], colours[:1], width=6)
    picture = draw_boxes(picture, boxes, labels, colours)
    caption = count(len(tiles), "tile") + ("; the thick one has the highest score" if len(tiles) > 1 else "")
    caption += "; component: tile score" if several else ""
    return panel("Tiles with their scores", picture, [caption, *([item.note] if item.note else [])], PAIR)


def _tile_arithmetic(explanation: Explanation) -> list[str]:
    return [
        f"similarity to anomalous prompts {explanation.anomalous.pooled:.4f}, to normal ones "
        f"{explanation.normal.pooled:.4f}; softmax of {explanation.trace.temperature or 0:.4g} x these: "
        f"{explanation.tile_scores[explanation.best]:.4f}"
    ]


def _prompt_lines(kind: str, alignment: Alignment) -> list[Line]:
    lines = [Line(f"Most similar {kind} prompts (of {len(alignment.prompts)})", 17)]
    lines += [Line(f"{similarity:.3f}  {prompt}", 15, FAINT, 48) for prompt, similarity in alignment.top(5)]
    return [*lines, Line("", 15)]


def _prompt_row(explanation: Explanation) -> list[Picture]:
    """The segmentations by the single prompts, their average, and the one scale of them all."""
    high = max(float(explanation.prompt_maps[:SHOWN_PROMPTS].max()), float(explanation.average_map.max()))
    breadth, gap = 3 * UNIT + 2 * GAP, 12
    side = (breadth - 5 * gap) // 6
    cells = []
    for prompt, weight, values in zip(
        explanation.localising[:SHOWN_PROMPTS], explanation.prompt_weights, explanation.prompt_maps, strict=False
    ):
        times = f" (counts {weight:g}x)" if weight != 1 else ""
        small = heat(resize_values(values, side, side), 0, high)
        cells.append(column([small, text_block([Line(prompt + times, 15, FAINT)], side)], 4))
    grid = column([row(cells[start : start + 6], gap) for start in range(0, len(cells), 6)], gap)
    total = len(explanation.localising)
    title = f"The {total} prompts" if total <= SHOWN_PROMPTS else f"The first {SHOWN_PROMPTS} of {total} prompts"
    average = explanation.config.pixel_level.prompt_average
    name = {"harmonic": "Harmonic mean", "arithmetic": "Arithmetic mean", "max": "Maximum"}[average]
    mean = heat(resize_values(explanation.average_map, UNIT, UNIT), 0, high)
    scaled = explanation.config.aggregation.tile_scaling
    score = explanation.tile_scores[explanation.best]
    caption = ["one scale for all maps of this row"]
    caption.append(
        f"next, it is multiplied by the tile score {score:.4f}" if scaled else "not scaled by the tile score"
    )
    body = column([mean, colour_bar(0, high, UNIT)], 8)
    return [panel(title, grid, [], breadth), panel(name, body, caption, UNIT)]


def _aggregation_row(explanation: Explanation) -> list[Picture]:
    values = explanation.anomaly_map.astype(np.float32)
    high = float(values.max())
    large, small = fit(explanation.photograph, PAIR, 640), fit(explanation.photograph, UNIT, UNIT)
    over = blend(grey(large), heat(resize_values(values, large.shape[1], large.shape[0]), 0, high), 0.5)
    alone = heat(resize_values(values, small.shape[1], small.shape[0]), 0, high)
    bar = colour_bar(0, high, min(PAIR, large.shape[1]))
    scale = f"scale of this image: 0 to its highest value, {high:.4f}"
    return [
        panel("Anomaly map over the photograph", column([over, bar], 8), [scale], PAIR),
        panel("Anomaly map", alone, [f"mean {float(values.mean()):.4f}, highest {high:.4f}"], UNIT),
        text_block(_component_lines(explanation), UNIT),
    ]


def _component_lines(explanation: Explanation) -> list[Line]:
    scores = explanation.component_scores
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    tiles = [tile.component for tile in explanation.item.tiles]
    lines = [Line("Component scores", 17)]
    for i in order[:12]:
        lines.append(Line(f"{i}:  {scores[i]:.4f}  ({count(tiles.count(i), 'tile')})", 15, FAINT))
    if len(order) > 12:
        lines.append(Line(f"and {len(order) - 12} lower ones", 15, FAINT))
    return [
        *lines,
        Line("", 15),
        Line(f"Score {explanation.score:.4f}", 17),
        Line(explanation.rule, 15, FAINT),
    ]
