"""One vision pass for the tiles of a batch; on a CPU few of them are decoded at once."""

import numpy as np
import pytest
import torch

from zsad.config import load_config
from zsad.method.tiling import Tile
from zsad.models import clipseg, clipseg_network
from zsad.steps.item import ImageItem
from zsad.steps.tile_maps import TileMaps

CONFIG = load_config("mini", None, ["models.clipseg.name=random-clipseg"])


@pytest.fixture(scope="module")
def model():
    return clipseg.load(CONFIG.models.clipseg)


def item(seed, tiles):
    rng = np.random.default_rng(seed)
    boxes = [(x := 20 * index, 5, x + 60, 65) for index in range(tiles)]
    return ImageItem(
        path="",
        class_name="disc",
        image=rng.integers(0, 256, (80, 200, 3), np.uint8),
        height=80,
        width=200,
        tiles=tuple(Tile(*box, 0) for box in boxes),
        tile_scores=rng.random(tiles).astype(np.float32),
    )


def test_few_tiles_are_decoded_at_once_and_the_maps_are_those_of_all_at_once(model, monkeypatch):
    step, items = TileMaps(model, CONFIG), [item(0, 5), item(1, 1), item(2, 2)]
    encoded, decoded = [], []
    encode, decode = model.encode_tiles, model.decode_tiles

    def spy_encode(batch):
        encoded.append(len(batch))
        return encode(batch)

    def spy_decode(levels, embeddings):
        decoded.append(len(levels[0]))
        return decode(levels, embeddings)

    monkeypatch.setattr(model, "encode_tiles", spy_encode)
    monkeypatch.setattr(model, "decode_tiles", spy_decode)
    some = step.predict(items)
    assert (encoded, decoded) == ([8], [3, 3, 2])
    monkeypatch.setattr(model, "tiles_at_once", lambda prompts: None)
    every = step.predict(items)
    assert (encoded, decoded) == ([8, 8], [3, 3, 2, 8])
    for one, other, own in zip(some, every, items, strict=True):
        assert one.shape == (len(own.tiles), 256, 256)
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("prompts", "tiles"), [(1, 64), (18, 3), (64, 1), (500, 1), (0, 64)])
def test_no_more_logits_at_once_than_a_decoder_call_makes(model, prompts, tiles):
    assert model.tiles_at_once(prompts) == tiles


def test_a_gpu_decodes_all_tiles_at_once():
    on_gpu = clipseg.CLIPSegModel("random-clipseg", clipseg_network.build("random-clipseg"), "", "cuda", "bf16")
    assert on_gpu.tiles_at_once(18) is None


def test_maps_that_are_no_number_are_an_error_row(model, monkeypatch):
    items = [item(0, 2), item(1, 3), item(2, 1)]
    crop = items[1].image[5:65, 20:80]
    encode = model.encode_tiles
    bad = model.preprocess([crop])[0]

    def broken(batch):
        levels = encode(batch)
        for index, tile in enumerate(batch):
            if torch.equal(tile, bad):
                levels[0][index, 1, 1] = float("nan")
        return levels

    monkeypatch.setattr(model, "encode_tiles", broken)
    TileMaps(model, CONFIG)(items)
    assert [each.failure and each.failure.kind for each in items] == [None, "not_finite", None]
    assert items[0].tile_maps is not None and items[1].tile_maps is None
