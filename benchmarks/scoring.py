"""P1, P2 and P8: the scoring stage (CLIP, CLIPSeg, aggregation) from tiles to the anomaly map."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks import models
from benchmarks.baselines.scoring import Script, clip_transform, clipseg_transform
from benchmarks.measure import fastest
from benchmarks.pictures import photograph, six_tiles
from benchmarks.rows import Row
from zsad.config import Config, load_config
from zsad.method.prompts import LOCALISING_PROMPTS, sample_prompts
from zsad.method.tiling import Tile, crop
from zsad.models import clip, clipseg
from zsad.projection import aggregate
from zsad.steps.item import ImageItem, anomaly_map
from zsad.steps.tile_maps import TileMaps
from zsad.steps.tile_scores import TileScores

NOUN = "metal washer"
GOALS = {"real": 10.0, "half": 6.0}
EQUAL = 1e-5


def scoring_stage(quick: bool) -> list[Row]:
    """P1: ours against the straightforward script, with the anomaly maps compared before any rounding."""
    return [_compare(size, quick) for size in (("small",) if quick else ("real", "half"))]


def counters(quick: bool) -> list[Row]:
    """P2: how often each part of the models runs for three images of one class."""
    del quick
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"ZSAD_CACHE": folder}):
        return [_count_rows(first) for first in (True, False)]


def _count_rows(first: bool) -> Row:
    """The rows through each tower in a new process's steps; the second one finds the text encoded."""
    steps = _steps("small", load_config("mini"))
    tile_scores, tile_maps = steps
    towers = {
        "CLIP image": tile_scores.model.module.visual,
        "CLIP text": tile_scores.model.module.transformer,
        "CLIPSeg vision": tile_maps.model.module.clip.vision_model.encoder.layers[0],
        "CLIPSeg text": tile_maps.model.module.clip.text_model.embeddings,
        "CLIPSeg decoder": tile_maps.model.module.decoder.layers[0].self_attn,
    }
    rows = dict.fromkeys(towers, 0)
    hooks = [
        module.register_forward_hook(_counting(rows, name), with_kwargs=True, always_call=True)
        for name, module in towers.items()
    ]
    image = photograph(0)
    for count in (2, 1, 1):
        _run(steps, [_item(image, six_tiles()[:count])])
    for hook in hooks:
        hook.remove()
    prompts = sum(map(len, sample_prompts(NOUN, load_config("mini").prompts)))
    distinct = len(set(LOCALISING_PROMPTS))
    text = (prompts, distinct) if first else (0, 0)
    expected = dict(zip(towers, (4, text[0], 4, text[1], 4 * distinct), strict=True))
    return Row(
        "P2",
        f"rows through each tower, 3 images, 4 tiles, 1 noun, {'first' if first else 'second'} actor on a machine",
        f"one vision pass per tile, {distinct} decoder prompts per tile, text once per noun and run",
        ", ".join(f"{name} {number}" for name, number in rows.items()),
        rows == expected,
    )


def device_batches(quick: bool) -> list[Row]:
    """P8: sizes of the forwards of CLIP and CLIPSeg, and whether a score depends on what shares its batch."""
    config = load_config("mini")
    steps = _steps("small", config)
    sizes: dict[str, list[int]] = {"CLIP": [], "CLIPSeg": []}
    towers = (steps[0].model.module.visual, steps[1].model.module.clip.vision_model.encoder.layers[0])
    hooks = [
        module.register_forward_pre_hook(lambda _m, given, found=found: found.append(len(given[0])))
        for module, found in zip(towers, sizes.values(), strict=True)
    ]
    image = photograph(1)
    calls = ((1, 33),) if quick else ((6,) * 8, (1,) * 32, (64,), (3, 17, 1, 30), (40, 40), (1, 5, 2, 60, 7))
    with _as_on_a_gpu(steps[1]):
        for counts in calls:
            _run(steps, [_item(image, _windows(np.random.default_rng(len(counts)), count)) for count in counts])
    for hook in hooks:
        hook.remove()
    means = {name: float(np.mean(found)) for name, found in sizes.items()}
    measured = ", ".join(f"{name} {mean:.1f} (least {min(sizes[name])})" for name, mean in means.items())
    difference = _composition(steps, image, (1, 3, 2) if quick else (1, 5, 2, 60, 7, 3))
    return [
        Row(
            "P8",
            f"mean device batch, 32 tiles or more at a time, 1 to {max(max(counts) for counts in calls)} per image",
            f">= {config.runtime.device_batch}",
            measured,
            min(means.values()) >= config.runtime.device_batch,
            "forwards as on a GPU; on a CPU a model computes a few tiles of a batch after the other (batch)",
        ),
        Row(
            "P8",
            "scores and maps alone against in a batch, fp32",
            f"<= {EQUAL:g}",
            f"{difference:.1e}",
            difference <= EQUAL,
        ),
    ]


def batches(quick: bool) -> list[Row]:
    """batch: the tiles of a batch of eight images a few after the other, as on a CPU, against all at once, as on a GPU."""
    size, count = ("small", 9) if quick else ("half", 48)
    steps = _steps(size, load_config("mini" if quick else "vand2023"))
    (item,) = _run(steps, [_item(photograph(0), _windows(np.random.default_rng(0), count))])
    tiles = steps[0].model.preprocess([crop(item.image, tile) for tile in item.tiles])
    return [
        _compare_batches(f"CLIP, {size} models, {count} tiles", steps[1], steps[0].model.embed_images, tiles, quick),
        _compare_batches(
            f"CLIPSeg and its average, {size} models, {count} tiles", steps[1], steps[1].predict, [item], quick
        ),
    ]


def _compare_batches(what: str, tile_maps: TileMaps, call: Any, given: Any, quick: bool) -> Row:
    found: dict[str, Any] = {}

    def ours() -> None:
        found["ours"] = call(given)

    def whole() -> None:
        with _as_on_a_gpu(tile_maps):
            found["whole"] = call(given)

    whole()
    mine, other = fastest(ours, whole, repeats=1 if quick else 3)
    difference = float(np.abs(np.asarray(found["ours"]) - np.asarray(found["whole"])).max())
    return Row(
        "batch",
        f"{what}, a few after the other against all at once",
        f">= 1x, difference <= {EQUAL:g}",
        f"{other / mine:.2f}x ({other:.2f} s : {mine:.2f} s), difference {difference:.1e}",
        difference <= EQUAL if quick else other >= mine and difference <= EQUAL,
        "in a process that gives freed memory back, as Python does; a job keeps pieces of up to 128 MiB",
    )


@contextmanager
def _as_on_a_gpu(tile_maps: TileMaps) -> Iterator[None]:
    """All tiles of a batch at once."""
    with (
        mock.patch.object(clip, "images_at_once", lambda count, device: count),
        mock.patch.object(clipseg, "images_at_once", lambda count, device: count),
        mock.patch.object(tile_maps.model, "tiles_at_once", lambda prompts: None),
    ):
        yield


def _compare(size: str, quick: bool) -> Row:
    config = load_config("mini" if size == "small" else "vand2023")
    image = photograph(0)
    tiles = six_tiles()[: {"real": 2, "half": 6}.get(size, 1)]
    steps = _steps(size, config)
    script = _script(steps, config)
    # Text is cached on both sides: the first image pays for it, not the ones that are measured.
    _run(steps, [_item(image, tiles[:1])])
    found: dict[str, Any] = {}

    def ours() -> None:
        (found["item"],) = _run(steps, [_item(image, tiles)])
        anomaly_map(found["item"], False)

    def theirs() -> None:
        found["script"] = script.score(image, tiles)

    mine, other = fastest(ours, theirs, repeats=1 if quick else 3 if size == "half" else 2)
    item, (scores, expected) = found["item"], found["script"]
    exact = aggregate(steps[1].predict([item])[0], _boxes(tiles), *image.shape[:2])
    difference = float(np.abs(exact - expected.numpy()).max())
    score_difference = float(np.abs(np.array(scores) - item.tile_scores).max())
    goal = GOALS.get(size)
    fast = goal is None or other / mine >= goal
    same = difference <= EQUAL and score_difference <= EQUAL
    return Row(
        "P1",
        f"scoring stage, {size} models, {len(tiles)} tiles",
        f">= {goal or GOALS['real']:g}x, map difference <= {EQUAL:g}",
        f"{other / mine:.1f}x ({other:.2f} s : {mine:.2f} s), map {difference:.1e}, score {score_difference:.1e}",
        same if quick else fast and same,
        "the script calls CLIP per tile and CLIPSeg per prompt, its text embeddings cached"
        + ("; no timing gate in a quick run" if quick else ""),
    )


def _steps(size: str, config: Config) -> tuple[TileScores, TileMaps]:
    return TileScores(models.clip_model(size), config), TileMaps(models.clipseg_model(size), config)


def _script(steps: tuple[TileScores, TileMaps], config: Config) -> Script:
    clip_model, clipseg_model = steps[0].model, steps[1].model
    normal, anomalous = sample_prompts(NOUN, config.prompts)
    return Script(
        clip_model.module,
        clip_transform(clip.preprocess_config(clip_model.name)),
        steps[0].scale,
        clip_model.embed_texts(normal),
        clip_model.embed_texts(anomalous),
        clipseg_model.module,
        clipseg_transform(clipseg_model.input_size),
        clipseg_model.embed_prompts(list(LOCALISING_PROMPTS)),
    )


def _item(image: Any, tiles: Sequence[Tile]) -> ImageItem:
    return ImageItem("", NOUN, image=image, tiles=tuple(tiles), height=image.shape[0], width=image.shape[1])


def _run(steps: Sequence[Any], items: list[ImageItem]) -> list[ImageItem]:
    for step in steps:
        step(items)
    for item in items:
        if item.failure is not None:
            raise RuntimeError(str(item.failure))
    return items


def _composition(steps: tuple[TileScores, TileMaps], image: Any, counts: Sequence[int]) -> float:
    """The largest difference of a tile score or a map (before rounding) between a batch and its images one by one."""
    rng = np.random.default_rng(0)
    together = _run(steps, [_item(image, _windows(rng, count)) for count in counts])
    maps = steps[1].predict(together)
    differences = []
    for item, batched in zip(together, maps, strict=True):
        (alone,) = _run(steps, [_item(image, item.tiles)])
        differences.append(np.abs(alone.tile_scores - item.tile_scores).max())  # type: ignore[operator]
        differences.append(np.abs(steps[1].predict([alone])[0] - batched).max())
    return float(max(differences))


def _windows(rng: np.random.Generator, count: int) -> list[Tile]:
    lefts, tops = rng.integers(0, 1100, count), rng.integers(0, 600, count)
    return [Tile(int(x), int(y), int(x) + 400, int(y) + 400, 0) for x, y in zip(lefts, tops, strict=True)]


def _boxes(tiles: Sequence[Tile]) -> Any:
    return np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in tiles])


def _counting(rows: dict[str, int], name: str) -> Any:
    def count(_module: Any, given: tuple[Any, ...], named: dict[str, Any], _output: Any) -> None:
        first = given[0] if given else next(value for value in named.values() if isinstance(value, torch.Tensor))
        rows[name] += len(first)

    return count
