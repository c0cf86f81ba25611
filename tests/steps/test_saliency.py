"""The step that asks IS-Net."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zsad.config import load_config
from zsad.steps.item import ImageItem
from zsad.steps.saliency import Saliency


class Brightness:
    """A model that finds what is bright, and no image whose first pixel is 13."""

    def __init__(self, batch_size: int, device: str = "cpu") -> None:
        self.batch_size = batch_size
        self.device = device
        self.batches: list[int] = []

    def preprocess(self, images: list[np.ndarray], threads: int) -> torch.Tensor:
        return torch.stack([torch.from_numpy(image[..., 0] / 255) for image in images])

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(batch))
        if (batch[:, 0, 0] == 13 / 255).any():
            raise ValueError("unlucky")
        return batch.float()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 6), (4, [4, 2, 2, 1, 1, 2])])
def test_images_that_share_a_forward_do_not_share_its_failure(batch_size, batches, device):
    images = [np.zeros((8, 8, 3), np.uint8) for _ in range(6)]
    for index, image in enumerate(images):
        image[index:, 4:] = 255
    images[2][0, 0] = 13
    items = [ImageItem(path=str(index), class_name="part", image=image) for index, image in enumerate(images)]
    model: Any = Brightness(batch_size, device)
    Saliency(model, load_config("mini"))(items)
    assert [item.failure is None for item in items] == [True, True, False, True, True, True]
    assert "unlucky" in str(items[2].failure)
    for index, item in enumerate(items):
        if index != 2:
            np.testing.assert_array_equal(item.dis_mask, images[index][..., 0] == 255)
    assert sorted(model.batches, reverse=True) == sorted(batches, reverse=True)


class Broken(Brightness):
    """Its saliency of a bright image holds one value that is no number."""

    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        found = super().predict(batch).clone()
        found[found.flatten(1).max(1).values > 0, 3, 5] = float("nan")
        return found


def test_saliency_that_is_no_number_is_an_error_row():
    images = [np.full((8, 8, 3), value, np.uint8) for value in (0, 200, 0)]
    items = [ImageItem(path=str(index), class_name="part", image=image) for index, image in enumerate(images)]
    model: Any = Broken(4)
    Saliency(model, load_config("mini"))(items)
    assert [item.failure and item.failure.kind for item in items] == [None, "not_finite", None]
    assert items[1].failure.message.startswith("IS-Net's saliency holds NaN or infinity; ")
