"""The first row of the picture of ``zsad explain``: from the photograph to its foreground."""

from __future__ import annotations

import numpy as np

from zsad.method.foreground import DIS, FULL_IMAGE, AnnotationLike
from zsad.report.explain import Explanation
from zsad.report.overlay import Colour, Mask, Picture, blend, draw_outline, heat, outline, resize_mask, resize_values
from zsad.report.panels import COMPONENTS, FAINT, PAPER, UNIT, Line, column, fit, panel, placeholder, row, text_block
from zsad.text import count

KEPT: Colour = (0, 114, 178)
DROPPED: Colour = (230, 159, 0)
CONTRAST: Colour = (255, 255, 255)


def foreground_row(explanation: Explanation) -> list[Picture]:
    """Photograph, DIS map, SAM annotations and foreground, each ``UNIT`` pixels wide."""
    item = explanation.item
    small = fit(explanation.photograph, UNIT, UNIT)
    return [
        panel("Photograph", small, [f"{item.width} x {item.height} pixels"], UNIT),
        _saliency_panel(explanation, small),
        _annotation_panel(explanation, small),
        _component_panel(explanation, small),
    ]


def _saliency_panel(explanation: Explanation, small: Picture) -> Picture:
    saliency, mask = explanation.trace.saliency, explanation.item.dis_mask
    if saliency is None or mask is None:
        reason = f"IS-Net was not asked (foreground.source = {explanation.config.foreground.source})."
        return panel("DIS map", placeholder(reason, small.shape[1], small.shape[0]), [], UNIT)
    size = (small.shape[1], small.shape[0])
    picture = heat(resize_values(saliency, *size), 0, 1, "grey")
    picture = draw_outline(picture, resize_mask(mask, *size), KEPT, 2, CONTRAST)
    caption = f"line: the DIS mask, {mask.mean():.1%} of the image"
    if not mask.any():
        caption = f"nowhere above {explanation.config.foreground.empty_guard:g}: the DIS mask is empty"
    return panel("DIS map", picture, [caption], UNIT)


def _annotation_panel(explanation: Explanation, small: Picture) -> Picture:
    annotations, config = explanation.trace.annotations, explanation.config.foreground
    if annotations is None:
        mask = explanation.item.dis_mask
        empty = mask is not None and not mask.any()
        reason = "SAM was not asked: " + (
            "the DIS mask is empty." if empty else f"foreground.source = {config.source}."
        )
        return panel("SAM annotations", placeholder(reason, small.shape[1], small.shape[0]), [], UNIT)
    if not annotations:
        reason = "SAM found no mask that passes its thresholds."
        return panel("SAM annotations", placeholder(reason, small.shape[1], small.shape[0]), [], UNIT)
    kept = set(explanation.kept)
    masks = [_annotation_mask(annotation, explanation, small) for annotation in annotations]
    dropped = [mask for i, mask in enumerate(masks) if i not in kept]
    picture = _paint(small, dropped, DROPPED, striped=True)
    picture = _paint(picture, [masks[i] for i in explanation.kept], KEPT)
    legend = [_legend(KEPT, False, f"{len(kept)} kept"), _legend(DROPPED, True, f"{len(dropped)} dropped")]
    rule = f"kept = at least {config.min_coverage:.0%} inside the DIS mask"
    return panel("SAM annotations", column([picture, row(legend, 8)], 8), [rule], UNIT)


def _paint(picture: Picture, masks: list[Mask], colour: Colour, striped: bool = False) -> Picture:
    """Fill the union of the masks, in stripes if they are to be told apart without colour; line each of them."""
    if not masks:
        return picture
    union = np.logical_or.reduce(masks)
    fill = 0.8 * (union & _stripes(union.shape)) if striped else 0.5 * union
    lines = np.logical_or.reduce([outline(mask, 1) for mask in masks])
    return blend(picture, np.full_like(picture, colour), np.maximum(fill, 0.9 * lines))


def _stripes(shape: tuple[int, ...]) -> Mask:
    return np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 8 < 3


def _legend(colour: Colour, striped: bool, text: str) -> Picture:
    field = np.full((16, 28, 3), PAPER, np.uint8)
    swatch = _paint(field, [np.ones((16, 28), np.bool_)], colour, striped)
    return row([swatch, text_block([Line(text, 15, FAINT)], 110)], 8)


def _annotation_mask(annotation: AnnotationLike, explanation: Explanation, small: Picture) -> Mask:
    whole = np.zeros((explanation.item.height, explanation.item.width), np.bool_)
    x0, y0, x1, y1 = annotation.box
    whole[y0:y1, x0:x1] = annotation.mask
    return resize_mask(whole, small.shape[1], small.shape[0])


def _component_panel(explanation: Explanation, small: Picture) -> Picture:
    item, foreground = explanation.item, explanation.trace.foreground
    if foreground is None or item.foreground is None:
        raise ValueError("the image has been through no foreground extraction")
    size = (small.shape[1], small.shape[0])
    picture = blend(small, np.full_like(small, PAPER), 0.8 * ~resize_mask(foreground.mask, *size))
    for component in range(1, item.num_components + 1):
        colour = COMPONENTS[(component - 1) % len(COMPONENTS)]
        picture = draw_outline(picture, resize_mask(foreground.components == component, *size), colour, 3)
    configured = explanation.config.foreground.source == foreground.source
    how = {
        FULL_IMAGE: "full_image: the whole image" + (", as configured" if configured else ", since nothing was found"),
        DIS: "dis: the DIS mask itself" + (", as configured" if configured else ": no annotation was kept"),
    }.get(foreground.source, f"{foreground.source}: union of the annotations kept")
    parts = count(item.num_components, "component")
    return panel("Foreground", picture, [how, f"{parts}, {item.foreground.mean():.1%} of the image"], UNIT)
