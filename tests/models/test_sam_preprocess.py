"""SAM's input against the published preprocessing."""

import numpy as np
import pytest
import torch
from segment_anything.utils.transforms import ResizeLongestSide

from zsad.models.sam import SAMModel
from zsad.models.sam_network import build


@pytest.mark.parametrize(("height", "width"), [(1000, 1500), (1500, 1000), (288, 288), (97, 61), (40, 1200), (900, 31)])
def test_input_is_the_published_one(height: int, width: int) -> None:
    network = build("mini-sam").eval()
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = ResizeLongestSide(288).apply_image(image)
    expected = network.preprocess(torch.as_tensor(resized).permute(2, 0, 1)[None])
    assert torch.equal(SAMModel(network, "cpu", "fp32", "").preprocess(image), expected)
