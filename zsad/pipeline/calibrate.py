"""Measure once what an image costs per stage, on a few images of the collection and with the real steps."""

from __future__ import annotations

import time
from statistics import median
from typing import TextIO

from zsad.config import load_config
from zsad.detector import as_item, build_steps, device_of
from zsad.errors import UsageError
from zsad.pipeline.cost import StageCosts, store_calibration
from zsad.pipeline.plan import sampled
from zsad.pipeline.score import ScoreOptions, manifest_of
from zsad.steps.item import ImageItem

_IMAGES = 8
_MOST_SECONDS = 120.0


def calibrate(options: ScoreOptions, stream: TextIO) -> StageCosts:
    """Score a few images, drawn with a fixed seed, and keep the median times for plans and pool sizes.

    The figures are kept in the cache folder, one file per models, their settings and kind of device. At most
    eight images, and none is begun after two minutes. The first is not counted: it warms the models up.

    Args:
        options: of the run; nothing is written to its output.
        stream: told what is done.

    Raises:
        UsageError: as ``zsad.pipeline.score.score``, or no image could be scored.
    """
    config = load_config(options.preset, options.config, options.overrides)
    rows = sampled(manifest_of(options, config), _IMAGES).select(["image_path", "class_name"]).to_pylist()
    # The cost does not depend on the noun, but the first image of each waits for its texts.
    noun = rows[0]["class_name"] or "object"
    device = device_of(config)
    print(f"Measuring up to {_IMAGES} images on {device}.", file=stream, flush=True)
    steps = build_steps(config)
    finished: list[ImageItem] = []
    start = time.monotonic()
    for row in [rows[0], *rows]:
        item = as_item(row["image_path"], noun)
        for step in steps:
            step([item])
        if item.failure is None:
            finished.append(item)
        if time.monotonic() - start > _MOST_SECONDS:
            break
    counted = finished[1:]
    if not counted:
        raise UsageError(
            f"None of the {len(rows)} images that were tried could be scored twice in a row, so there is nothing to "
            "measure. Expected readable images; 'zsad score --limit 10' shows what is wrong with them."
        )
    # Of so few images one that the machine held up would carry the mean with it.
    stages = dict.fromkeys(stage for item in counted for stage in item.stage_ms)
    costs = StageCosts(
        {stage: round(median(item.stage_ms.get(stage, 0.0) for item in counted), 3) for stage in stages},
        f"measured over {len(counted)} images by --calibrate ({device})",
        device,
        1,
        len(counted),
        sum(len(item.tiles) for item in counted) / len(counted),
    )
    print(f"Kept in {store_calibration(config, costs)}", file=stream, flush=True)
    return costs
