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
from zsad.models.sam_mask_generator import Annotation, MaskGenerator
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
    """P4: decoder calls with point pruning, several images at once, and what pruning changes in the foreground."""
    side, count = (16, 3) if quick else (32, 6)
    config = load_config("mini", None, [f"foreground.points_per_side={side}"])
    model = models.sam_model(models.sam_network("small"))
    calls: list[int] = []
    model.network.mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    size = (200, 300) if quick else (500, 750)
    items = [ImageItem("", "part", image=photograph(seed, *size)) for seed in range(count)]
    Saliency(models.isnet_model("small"), config)(items)

    def run(pruning: str, batches: list[list[ImageItem]]) -> tuple[int, float, list[NDArray[np.bool_]]]:
        """Decoder calls, CPU seconds and the foregrounds."""
        foreground = config.foreground.model_copy(update={"point_pruning": pruning})
        step = Instances(MaskGenerator(model), config.model_copy(update={"foreground": foreground}), 128)
        calls.clear()
        seconds = cpu_seconds(lambda: [step(batch) for batch in batches])
        masks = [item.foreground for item in items if item.foreground is not None]
        if len(masks) < count:
            raise RuntimeError(f"no foreground: {[item.failure for item in items]}")
        return len(calls), seconds, masks

    one_by_one = [[item] for item in items]
    _, _, full = run("none", [items])
    # In turns, as the machine is shared.
    shared, alone = zip(*((run("dis", [items]), run("dis", one_by_one)) for _ in range(1 if quick else 3)), strict=True)
    pruned = shared[0][2]
    points = sum(len(_points(config.foreground, item.dis_mask)) for item in items if item.dis_mask is not None)
    most = math.ceil(points / config.foreground.points_per_batch)
    same = all(map(np.array_equal, pruned, alone[0][2]))
    overlaps = [(one & other).sum() / max(1, (one | other).sum()) for one, other in zip(pruned, full, strict=True)]
    together, apart = (min(run[1] for run in runs) / count for runs in (shared, alone))
    return [
        Row(
            "P4",
            f"decoder calls for {count} images at once, {points} of {count * side**2} points near the DIS masks, small "
            f"SAM with local masks",
            f"<= {most} (points / 64), each foreground the same as alone",
            f"{shared[0][0]} ({alone[0][0]} one by one), {'the same' if same else 'another'} foreground; "
            f"IoU with the full grid's {np.mean(overlaps):.3f} (least {min(overlaps):.3f})",
            shared[0][0] <= most and same,
            f"{together:.2f} s of CPU per image at once, {apart:.2f} s one by one: on a CPU a call is computed in smaller "
            f"groups of one image each",
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
) -> tuple[Costs, list[Annotation]]:
    with _Watches(model.network, model, "encode_pixels") as watches:
        found: list[Any] = []
        total = cpu_seconds(lambda: found.append(MaskGenerator(model).annotate(image, config, points)))
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
        if not all(watch.seconds for watch in (self.encoding, self.wrapped, self.decoding, self.prompts)):
            raise ValueError("what is timed was not called, so its time would count as post-processing")
        return Costs(
            decoding=self.decoding.seconds + self.prompts.seconds,
            post=total - self.encoding.seconds - self.wrapped.seconds - self.prompts.seconds,
        )


def _points(config: ForegroundConfig, dis_mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The grid points near the DIS mask, computed on its own."""
    radius = round(config.pruning_dilation * max(dis_mask.shape))
    grid = sam.point_grid(config.points_per_side)
    rows, columns = (grid[:, ::-1] * dis_mask.shape).astype(int).T
    near = [
        dis_mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].any()
        for y, x in zip(rows, columns, strict=True)
    ]
    return grid[np.array(near)]
