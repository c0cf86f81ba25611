"""The step that asks CLIP."""

import numpy as np
import torch

from zsad.config import load_config
from zsad.method.tiling import Tile
from zsad.models import clip
from zsad.steps.item import ImageItem
from zsad.steps.tile_scores import TileScores


def test_an_embedding_that_is_no_number_is_an_error_row(monkeypatch):
    config = load_config("mini", None, ["models.clip.name=random-clip"])
    model = clip.load(config.models.clip)
    items = [
        ImageItem(
            path="",
            class_name="disc",
            image=np.full((60, 60, 3), value, np.uint8),
            height=60,
            width=60,
            tiles=(Tile(0, 0, 60, 60, 0),),
        )
        for value in (10, 250, 30)
    ]
    embed = model.embed_images

    def broken(batch):
        found = embed(batch).clone()
        found[batch.mean((1, 2, 3)) > 1] = float("inf")
        return found

    monkeypatch.setattr(model, "embed_images", broken)
    TileScores(model, config)(items)
    assert [item.failure and item.failure.kind for item in items] == [None, "not_finite", None]
    assert [item.score is None for item in items] == [False, True, False]
    assert torch.isfinite(torch.tensor([items[0].score, items[2].score])).all()
