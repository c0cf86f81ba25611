from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from segment_anything.modeling import Sam
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from zsad.config import ForegroundConfig, ModelConfig
from zsad.errors import UsageError
from zsad.models import sam
from zsad.models.sam_masks import measure, upsampling, window_logits, windows

from .sam_oracle import assert_same, published, small_sam

# No thresholds and no suppression: every mask must agree, also the ones the published thresholds drop.
EVERYTHING = ForegroundConfig(
    points_per_side=3, points_per_batch=4, pred_iou_threshold=0, stability_threshold=0, box_nms_threshold=1
)


@pytest.fixture(scope="module")
def model() -> sam.SAMModel:
    return small_sam(seed=0)


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    names = ("astronaut.png", "chelsea.png", "coffee.png")
    folder = Path(skimage.__file__).parent / "data"
    images = {name: np.array(Image.open(folder / name).convert("RGB")) for name in names}
    china, flower = load_sample_images().images
    return images | {"china": china, "flower": flower}


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    """Torch upsamples with another kernel, rounding otherwise, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_007 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", ["china", "flower", "astronaut.png", "chelsea.png", "coffee.png"])
def test_equals_the_published_generator_on_photographs(model, photographs, name, threads):
    image = photographs[name]
    lowered = ForegroundConfig(points_per_side=5, points_per_batch=16, pred_iou_threshold=0.3, stability_threshold=0.6)
    ours = model.annotate(image, lowered)
    assert len(ours) >= 10
    assert_same(ours, published(model, image, lowered))


@pytest.mark.parametrize("name", ["flower", "astronaut.png", "coffee.png"])
def test_equals_the_published_generator_at_its_default_thresholds(model, photographs, name):
    config = ForegroundConfig(points_per_side=7)
    ours = model.annotate(photographs[name], config)
    assert len(ours) >= 5
    assert_same(ours, published(model, photographs[name], config))


@pytest.mark.parametrize("name", ["chelsea.png", "flower", "coffee.png"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"box_nms_threshold": 0.0},
        {"stability_offset": 0.0},
        {"stability_offset": 40.0, "stability_threshold": 0.3},
        {"pred_iou_threshold": 0.99},
        {"pred_iou_threshold": 2.0},
        {"pred_iou_threshold": -1.0, "stability_threshold": 1.0},
        {"points_per_side": 1},
        {"points_per_batch": 1, "points_per_side": 2},
    ],
)
def test_edge_thresholds(model, photographs, change, name):
    config = EVERYTHING.model_copy(update=change)
    image = photographs[name]
    assert_same(model.annotate(image, config), published(model, image, config))


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (2, 3), (64, 64), (64, 65), (128, 1), (20, 400), (400, 20), (256, 256), (257, 255), (500, 411)],
)
def test_image_sizes(model, height, width, threads):
    image = noise(height, width)
    ours = model.annotate(image, EVERYTHING)
    assert len(ours) == 27
    assert_same(ours, published(model, image, EVERYTHING))


class Constant(torch.nn.Module):
    """Decoder with the same logit everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, sparse_prompt_embeddings: torch.Tensor, **_: object) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = len(sparse_prompt_embeddings)
        return torch.full((prompts, 3, 96, 96), self.value), torch.linspace(0, 1, prompts * 3).view(prompts, 3)


@pytest.mark.parametrize("value", [-30.0, -1.0, 0.0, 1e-7, 1.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_empty_and_full_masks_and_masks_on_the_threshold(value, offset, threads):
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    model.network.mask_decoder = Constant(value)
    for stability in (0.0, 0.5):
        config = EVERYTHING.model_copy(update={"stability_offset": offset, "stability_threshold": stability})
        ours = model.annotate(noise(150, 211), config)
        assert_same(ours, published(model, noise(150, 211), config))


def test_given_points_replace_the_grid(model, photographs):
    points = sam.point_grid(5)[[1, 7, 8, 20]]
    image = photographs["flower"]
    assert_same(model.annotate(image, EVERYTHING, points), published(model, image, EVERYTHING, points))
    assert model.annotate(image, EVERYTHING, points[:0]) == []


def test_an_annotation_lies_in_its_tight_box(model, photographs):
    for annotation in model.annotate(photographs["china"], EVERYTHING):
        x0, y0, x1, y1 = annotation.box
        assert annotation.mask.shape == (y1 - y0, x1 - x0)
        assert annotation.mask.dtype == bool
        assert annotation.area == annotation.mask.sum()
        if annotation.area:
            edges = annotation.mask[0], annotation.mask[-1], annotation.mask[:, 0], annotation.mask[:, -1]
            assert all(edge.any() for edge in edges)


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**16), st.data())
def test_a_window_equals_the_whole_upsampling(threads, height, width, seed, data):
    long = max(height, width)
    cut = max(1, int(height * 256 / long + 0.5)), max(1, int(width * 256 / long + 0.5))
    low = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 7
    whole = F.interpolate(low, (256, 256), mode="bilinear", align_corners=False)[..., : cut[0], : cut[1]]
    whole = F.interpolate(whole, (height, width), mode="bilinear", align_corners=False)[0, 2]
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    plan = upsampling((64, 64), 256, cut, (height, width))
    part = window_logits(low[0, 2], (x0, y0, x1, y1), plan)
    assert torch.equal(part, whole[y0:y1, x0:x1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(130, 900), st.integers(20, 900), st.integers(0, 63), st.integers(0, 63), st.integers(-3, 3))
def test_a_window_holds_the_whole_mask_of_a_single_entry(height, width, row, column, level):
    long = max(height, width)
    cut = max(1, int(height * 256 / long + 0.5)), max(1, int(width * 256 / long + 0.5))
    low = torch.full((1, 64, 64), level - 1e-4)
    low[0, row, column] = 1e4
    plan = upsampling((64, 64), 256, cut, (height, width))
    ((x0, y0, x1, y1),) = windows(low, level, plan)
    whole = window_logits(low[0], (0, 0, width, height), plan) > level
    assert whole[y0:y1, x0:x1].sum() == whole.sum()
    if whole.any():
        rows, columns = whole.any(1).nonzero().flatten(), whole.any(0).nonzero().flatten()
        assert measure(low, [(x0, y0, x1, y1)], level, 0, plan)[1].tolist() == [
            [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        ]
        # And little more: one input pixel of 256 on each side at most.
        slack = long // 256 + 2
        assert rows[0] - y0 <= slack
        assert y1 - 1 - rows[-1] <= slack


def test_random_is_a_small_sam_seeded_and_silent():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    assert torch.equal(torch.rand(3), expected)
    assert isinstance(model.network, Sam)
    assert model.input_size == 288
    assert model.sha256 == sam.load(ModelConfig(name="random-sam"), "cpu", "fp32").sha256
    assert sum(parameter.numel() for parameter in model.network.parameters()) < 2_000_000


def test_weights_load_strictly(tmp_path, model):
    state = sam.build_mini_sam().state_dict()
    torch.save(state, tmp_path / "sam.pth")
    loaded = sam.load(ModelConfig(name="random-sam", weights=str(tmp_path / "sam.pth")), "cpu", "fp32")
    assert all(torch.equal(value, state[key]) for key, value in loaded.network.state_dict().items())
    torch.save(state | {"mask_decoder.iou_token.weight": torch.zeros(1, 32)}, tmp_path / "wrong.pth")
    with pytest.raises(UsageError, match=r"mask_decoder\.iou_token\.weight"):
        sam.load(ModelConfig(name="random-sam", weights=str(tmp_path / "wrong.pth")), "cpu", "fp32")


def test_unknown_name_is_refused():
    with pytest.raises(UsageError, match="expected one of: sam-vit-h, sam-vit-l, sam-vit-b, mini-sam, random-sam"):
        sam.load(ModelConfig(name="random-isnet"), "cpu", "fp32")


def test_half_precision_gives_float32_logits_close_to_single(photographs):
    single = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    half = sam.load(ModelConfig(name="random-sam"), "cpu", "bf16")
    points = sam.point_grid(2) * 400
    low, _ = single.decode(single.encode(photographs["china"]), points)
    low_half, iou_half = half.decode(half.encode(photographs["china"]), points)
    assert low_half.dtype == iou_half.dtype == torch.float32
    assert 0 < (low - low_half).abs().max() < 0.1 * low.abs().max()
