"""Kinds B: what the bundled models are evaluated on. They never occur in training."""

from __future__ import annotations

from zsad.datasets.synthetic.electronics import circuit_board, led_strip
from zsad.datasets.synthetic.food import biscuit, capsule, macaroni, pill_blister
from zsad.datasets.synthetic.household import bottle_cap, candle, ceramic_tile, coat_button, zipper
from zsad.datasets.synthetic.kinds import FOOD, METAL, Kind
from zsad.datasets.synthetic.metalwork import gear, metal_washer, wood_screw

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
