"""Kinds A: what the bundled models are trained on. None of them, and none of their nouns, is in kinds B."""

from __future__ import annotations

from zsad.datasets.synthetic.electronics import memory_module, ribbon_cable, terminal_block
from zsad.datasets.synthetic.food import chalk_tablet, chocolate_bar, kidney_bean, salt_cracker
from zsad.datasets.synthetic.household import jar_lid, soap_bar
from zsad.datasets.synthetic.kinds import FOOD, METAL, Kind
from zsad.datasets.synthetic.metalwork import brass_coin, coil_spring, dome_rivet, fan_rotor, hex_nut

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
