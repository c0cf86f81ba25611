"""P3 and P4: SAM's automatic masks against the published generator, and pruned prompts against the full grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import nn

from benchmarks import models
from benchmarks.baselines.segmentation import differing, stock_generator
from benchmarks.measure import Stopwatch, cpu_seconds
from benchmarks.pictures import photograph
from benchmarks.rows import Row
from zsad.config import ForegroundConfig, load_config
from zsad.models import sam
from zsad.steps.instances import Instances
from zsad.steps.item import ImageItem
from zsad.steps.saliency import Saliency

TOTAL, POST, SHARE = 2.5, 20.0, 0.05


@dataclass(frozen=True)
class Costs:
    """CPU seconds of one image: mask decoder (with its prompt encoder), and all that follows it."""

    decoding: float
    post: float


def annotations(quick: bool) -> list[Row]:
    """P3: decoding and post-processing, the image encoder left out on both sides."""
    if quick:
        return _compare("small", photograph(0, 300, 450), sam.point_grid(4), "16 points", 1, judged=False)
    image = photograph(0)
    # Every eighth point of the grid: two batches of 64, spread over the whole image.
    sample = sam.point_grid(32)[4::8]
    return [
        *_compare("real", image, sample, "2 batches of 64 points", 2, judged=True),
        *_compare("small", photograph(0, 500, 750), sam.point_grid(32), "full grid, 1024 points", 1, judged=False),
    ]


def pruning(quick: bool) -> list[Row]:
    """P4: decoder calls with point pruning, and what it changes in the foreground."""
    side = 16 if quick else 32
    config = load_config("mini", None, [f"foreground.points_per_side={side}"])
    pruned = config.foreground.model_copy(update={"point_pruning": "dis"})
    full = config.foreground.model_copy(update={"point_pruning": "none"})
    model = models.sam_model(models.sam_network("small"))
    calls: list[int] = []
    model.network.mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    found, within, overlaps, points = [], True, [], []
    for seed in range(1 if quick else 6):
        image = photograph(seed, 200, 300) if quick else photograph(seed, 500, 750)
        item = ImageItem("", "part", image=image)
        Saliency(models.isnet_model("small"), config)([item])
        masks = []
        for settings in (pruned, full):
            calls.clear()
            step = Instances(model, config.model_copy(update={"foreground": settings}), 128)
            step([item])
            if item.foreground is None or item.dis_mask is None:
                raise RuntimeError(f"no foreground: {item.failure}")
            masks.append(item.foreground)
            if settings is pruned:
                inside = len(_points(step, item.dis_mask))
                points.append(inside)
                found.append(len(calls))
                within &= len(calls) <= math.ceil(inside / settings.points_per_batch)
        overlaps.append((masks[0] & masks[1]).sum() / max(1, (masks[0] | masks[1]).sum()))
    return [
        Row(
            "P4",
            f"decoder calls per image, {len(found)} images one by one, small SAM with local masks",
            "<= ceil(points in the dilated DIS mask / 64)",
            f"{np.mean(found):.1f} of {side**2 // 64} ({np.mean(points):.0f} of {side**2} points); foreground IoU with "
            f"the full grid "
            f"{np.mean(overlaps):.3f} (least {min(overlaps):.3f})",
            within,
            "points of several images do not share a batch",
        )
    ]


def _compare(
    size: str, image: NDArray[np.uint8], points: NDArray[np.float64], what: str, repeats: int, judged: bool
) -> list[Row]:
    config = ForegroundConfig()
    network = models.sam_network(size)
    ours = models.sam_model(network)
    network.mask_decoder = models.LocalMasks(network.mask_decoder)  # type: ignore[assignment]
    if size == "real":
        # The encoder is left out of the figures; a drawn embedding spares its time as well.
        for one in (network, ours.network):
            one.image_encoder = models.DrawnEmbedding(one.image_encoder)  # type: ignore[assignment]
    runs = [(_ours(ours, image, config, points), _stock(network, image, config, points)) for _ in range(repeats)]
    annotated, expected = runs[0][0][1], runs[0][1][1]
    mine, stock = (Costs(min(r[side][0].decoding for r in runs), min(r[side][0].post for r in runs)) for side in (0, 1))
    pixels = differing(annotated, expected)
    covered = np.mean([one["area"] for one in expected]) / image[..., 0].size if expected else 0
    where = f"{'ViT-B' if size == 'real' else size} SAM, {what}, {image.shape[1]} x {image.shape[0]}"
    total = (stock.decoding + stock.post) / (mine.decoding + mine.post)
    same = pixels is not None and pixels == 0
    note = f"{len(expected)} annotations, {100 * covered:.1f} % of the image each on average"
    if size == "real":
        batches = math.ceil(1024 / 64)
        scale = batches / math.ceil(len(points) / 64)
        note += (
            f"; a drawn image embedding; extrapolated to the full grid of 1024 points ({batches} batches): "
            f"{scale * (stock.decoding + stock.post):.0f} s against {scale * (mine.decoding + mine.post):.0f} s"
        )
    agreement = "another set" if pixels is None else f"the same {len(annotated)} annotations, {pixels} pixels differ"
    return [
        Row(
            "P3",
            f"decoding and post-processing, {where}",
            f">= {TOTAL:g}x, the same annotations",
            f"{total:.2f}x ({stock.decoding:.2f} + {stock.post:.2f} s : {mine.decoding:.2f} + {mine.post:.2f} s), "
            f"{agreement}",
            (total >= TOTAL and same) if judged else same,
            note,
        ),
        Row(
            "P3",
            f"post-processing alone, {where}",
            f">= {POST:g}x, <= {100 * SHARE:g} % of decoding",
            f"{stock.post / mine.post:.1f}x, {100 * mine.post / mine.decoding:.1f} % of decoding",
            (stock.post / mine.post >= POST and mine.post <= SHARE * mine.decoding) if judged else None,
            "" if judged else "the goal speaks of real size; a small SAM's decoding is cheap",
        ),
    ]


def _ours(
    model: sam.SAMModel, image: NDArray[np.uint8], config: ForegroundConfig, points: NDArray[np.float64]
) -> tuple[Costs, list[sam.Annotation]]:
    with _Watches(model.network, model, "encode") as watches:
        found: list[Any] = []
        total = cpu_seconds(lambda: found.append(model.annotate(image, config, points)))
    return watches.costs(total), found[0]


def _stock(
    network: Sam, image: NDArray[np.uint8], config: ForegroundConfig, points: NDArray[np.float64]
) -> tuple[Costs, list[dict[str, Any]]]:
    generator = stock_generator(network, config, points)
    with _Watches(network, generator.predictor, "set_image") as watches:
        found: list[Any] = []
        total = cpu_seconds(lambda: found.append(generator.generate(image)))
    return watches.costs(total), found[0]


class _Watches:
    """Stopwatches on the encoder (``owner.method``), the decoder and the wrapper that shapes its masks."""

    def __init__(self, network: Sam, owner: Any, method: str) -> None:
        self.encoding, self.wrapped, self.decoding, self.prompts = (Stopwatch() for _ in range(4))
        wrapper: Any = network.mask_decoder
        self._modules: list[tuple[nn.Module, Stopwatch]] = [
            (wrapper, self.wrapped),
            (wrapper.decoder, self.decoding),
            (network.prompt_encoder, self.prompts),
        ]
        self._owner, self._method = owner, method

    def __enter__(self) -> _Watches:
        for module, watch in self._modules:
            module.forward = watch.around(module.forward)
        # The model is a frozen dataclass: the timed method shadows the class's own in its dictionary.
        vars(self._owner)[self._method] = self.encoding.around(getattr(self._owner, self._method))
        return self

    def __exit__(self, *_: object) -> None:
        for module, _watch in self._modules:
            del module.forward
        del vars(self._owner)[self._method]

    def costs(self, total: float) -> Costs:
        return Costs(
            decoding=self.decoding.seconds + self.prompts.seconds,
            post=total - self.encoding.seconds - self.wrapped.seconds - self.prompts.seconds,
        )


def _points(step: Instances, dis_mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The grid points near the DIS mask, computed on its own."""
    config = step.config.foreground
    radius = round(config.pruning_dilation * max(dis_mask.shape))
    grid = sam.point_grid(config.points_per_side)
    rows, columns = (grid[:, ::-1] * dis_mask.shape).astype(int).T
    near = [
        dis_mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].any()
        for y, x in zip(rows, columns, strict=True)
    ]
    return grid[np.array(near)]
