from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from zsad.config import ModelConfig
from zsad.errors import UsageError
from zsad.models import isnet
from zsad.models.state_dicts import seeded

# sha256 over the sorted key names of the published network (xuebinqin/DIS, IS-Net/models/isnet.py), by line.
PUBLISHED_KEYS = "60c4185ad278edfee7022d516e14794fad9395d407402a6a7e14c48c770a1a95"

PUBLISHED_SHAPES = {
    "conv_in.weight": (64, 3, 3, 3),
    "conv_in.bias": (64,),
    "stage1.rebnconvin.conv_s1.weight": (64, 64, 3, 3),
    "stage1.rebnconvin.bn_s1.num_batches_tracked": (),
    "stage1.rebnconv7.conv_s1.weight": (32, 32, 3, 3),
    "stage1.rebnconv6d.conv_s1.weight": (32, 64, 3, 3),
    "stage1.rebnconv1d.bn_s1.running_var": (64,),
    "stage2.rebnconv1.conv_s1.weight": (32, 128, 3, 3),
    "stage3.rebnconv5.bn_s1.running_mean": (64,),
    "stage4.rebnconv4.conv_s1.weight": (128, 128, 3, 3),
    "stage5.rebnconv3d.conv_s1.weight": (256, 512, 3, 3),
    "stage6.rebnconv1d.conv_s1.weight": (512, 512, 3, 3),
    "stage5d.rebnconvin.conv_s1.weight": (512, 1024, 3, 3),
    "stage4d.rebnconvin.conv_s1.weight": (256, 1024, 3, 3),
    "stage3d.rebnconv5.conv_s1.bias": (64,),
    "stage2d.rebnconv6.conv_s1.weight": (32, 32, 3, 3),
    "stage1d.rebnconv7.conv_s1.weight": (16, 16, 3, 3),
    "stage1d.rebnconv1d.conv_s1.weight": (64, 32, 3, 3),
    "side1.weight": (1, 64, 3, 3),
    "side3.weight": (1, 128, 3, 3),
    "side6.bias": (1,),
    "side6.weight": (1, 512, 3, 3),
}


@pytest.fixture(scope="module")
def published_layout() -> dict[str, torch.Tensor]:
    return isnet.ISNet().state_dict()


@pytest.fixture(scope="module")
def mini() -> isnet.ISNetModel:
    return isnet.load(ModelConfig(name="random-isnet"), "cpu", "fp32")


def test_layout_is_the_published_one(published_layout):
    assert len(published_layout) == 798
    parameters = [key for key in published_layout if not key.endswith(("_mean", "_var", "_tracked"))]
    assert sum(published_layout[key].numel() for key in parameters) == 44_046_790
    assert {key: tuple(published_layout[key].shape) for key in PUBLISHED_SHAPES} == PUBLISHED_SHAPES
    assert hashlib.sha256("\n".join(sorted(published_layout)).encode()).hexdigest() == PUBLISHED_KEYS


def test_dilations_of_the_blocks():
    network = isnet.ISNet(8)
    dilations = {
        name.removesuffix(".conv_s1"): module.dilation[0]
        for name, module in network.named_modules()
        if name.endswith("conv_s1") and module.dilation != (1, 1)
    }
    expected = {"stage1.rebnconv7": 2, "stage2.rebnconv6": 2, "stage3.rebnconv5": 2, "stage4.rebnconv4": 2}
    expected |= {"stage1d.rebnconv7": 2, "stage2d.rebnconv6": 2, "stage3d.rebnconv5": 2, "stage4d.rebnconv4": 2}
    for stage in ("stage5", "stage6", "stage5d"):
        expected |= {f"{stage}.rebnconv2": 2, f"{stage}.rebnconv3": 4, f"{stage}.rebnconv4": 8}
        expected |= {f"{stage}.rebnconv3d": 4, f"{stage}.rebnconv2d": 2}
    assert dilations == expected


def test_strict_load_of_the_published_layout(published_layout, tmp_path):
    path = tmp_path / "isnet-general-use.pth"
    torch.save(published_layout, path)
    model = isnet.load(ModelConfig(name="isnet-general-use", weights=str(path)), "cpu", "fp32")
    assert model.input_size == 1024
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = model.network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in published_layout.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.update({"side1.weight": torch.zeros(1, 9, 3, 3)}), "side1.weight"),
        (lambda state: state.pop("stage3.rebnconv2.bn_s1.running_mean"), "stage3.rebnconv2.bn_s1.running_mean"),
        (lambda state: state.update({"side7.bias": torch.zeros(1)}), "side7.bias"),
    ],
)
def test_weights_of_another_shape_are_refused(mini, tmp_path, change, named):
    state = dict(mini.network.state_dict())
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=named):
        isnet.load(ModelConfig(name="random-isnet", weights=str(tmp_path / "weights.pth")), "cpu", "fp32")


def test_unknown_name_is_refused():
    with pytest.raises(UsageError, match="expected one of: isnet-general-use, mini-isnet, random-isnet"):
        isnet.load(ModelConfig(name="sam-vit-b"), "cpu", "fp32")


def test_random_weights_are_seeded_and_leaves_the_random_state_alone(mini):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = isnet.load(ModelConfig(name="random-isnet"), "cpu", "fp32")
    assert torch.equal(torch.rand(3), expected)
    assert again.sha256 == mini.sha256
    assert all(torch.equal(value, again.network.state_dict()[key]) for key, value in mini.network.state_dict().items())


@pytest.mark.parametrize(("height", "width"), [(427, 640), (333, 77), (1, 1), (320, 320)])
def test_preprocessing_is_the_published_one(mini, height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    pixels = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)
    resized = F.interpolate(pixels[None], [320, 320], mode="bilinear").type(torch.uint8)
    expected = (torch.divide(resized, 255.0) - torch.tensor(0.5)) / torch.tensor(1.0)
    got = mini.preprocess([image])[0]
    assert got.shape == (3, 320, 320)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected[0])


def test_images_are_stretched_into_one_batch(mini):
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (50 + 9 * index, 70, 3), np.uint8) for index in range(5)]
    alone = torch.cat([mini.preprocess([image]) for image in images])
    for threads in (1, 3):
        assert torch.equal(mini.preprocess(images, threads), alone)


def test_only_half_precision_on_a_gpu_shares_forwards(mini):
    sizes = {
        (device, precision): isnet.ISNetModel(mini.network, 320, device, precision, "").batch_size
        for device in ("cpu", "cuda")
        for precision in ("fp32", "bf16")
    }
    assert sizes.pop(("cuda", "bf16")) == 4
    assert set(sizes.values()) == {1}


def test_pixels_are_truncated_not_rounded(mini):
    # A ramp stretched to the input size has values between the grey levels.
    image = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)
    exact = F.interpolate(torch.tensor(image).permute(2, 0, 1)[None].float(), [320, 320], mode="bilinear")[0]
    levels = (mini.preprocess([image])[0] + 0.5) * 255
    assert torch.allclose(levels, exact.floor(), atol=1e-3)
    assert not torch.allclose(levels, exact.round(), atol=1e-3)


def test_predict_is_the_sigmoid_of_side_one(mini):
    generator = torch.Generator().manual_seed(2)
    batch = torch.rand(2, 3, 320, 320, generator=generator) - 0.5
    saliency = mini.predict(batch)
    assert saliency.shape == (2, 320, 320)
    assert saliency.dtype == torch.float32
    sides = mini.network.forward_all(batch)
    assert [tuple(side.shape) for side in sides] == [(2, 1, 320, 320)] * 6
    assert torch.allclose(saliency, torch.sigmoid(sides[0][:, 0]), atol=1e-6)
    assert not torch.allclose(saliency, torch.sigmoid(sides[1][:, 0]), atol=1e-3)
    assert torch.allclose(mini.predict(batch[1:])[0], saliency[1], atol=1e-6)


def test_half_precision_returns_float32_close_to_single(mini):
    half = isnet.load(ModelConfig(name="random-isnet"), "cpu", "bf16")
    batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)) - 0.5
    saliency = half.predict(batch)
    assert saliency.dtype == torch.float32
    difference = (saliency - mini.predict(batch)).abs().max()
    assert 0 < difference < 0.02


def test_any_input_size(mini):
    logits = mini.network(torch.zeros(1, 3, 75, 131))
    assert logits.shape == (1, 1, 75, 131)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_folds_the_batch_norms_and_is_as_exact_as_autocast(precision):
    network = seeded(lambda: isnet.ISNet(8)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.2, 1.5, generator=generator)
            module.weight.uniform_(0.5, 2, generator=generator)
            module.bias.normal_(0, 0.3, generator=generator)
    images = torch.rand(1, 3, 160, 160, generator=generator) - 0.5
    exact = network(images)
    with torch.autocast("cpu", isnet.DTYPES[precision]):
        by_autocast = network(images).float()
    folded = isnet.ready(copy.deepcopy(network), "cpu", precision)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert {parameter.dtype for parameter in folded.parameters()} == {isnet.DTYPES[precision]}
    got = folded(images.to(isnet.DTYPES[precision])).float()
    assert 0 < (got - exact).norm() < 1.5 * (by_autocast - exact).norm() < 0.1 * (exact - exact.mean()).norm()


def test_single_precision_keeps_the_batch_norms(mini):
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in mini.network.modules())


def test_a_model_can_be_copied_after_use(mini):
    batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4)) - 0.5
    expected = mini.predict(batch)
    assert torch.equal(copy.deepcopy(mini).predict(batch), expected)
