"""CLIPSeg: the shared route against the stock transformers call, text and preprocessing against theirs.

What equals what: at the same batch shape the reductions are equal bit for bit, since the same operations run on the
same data. The decoder ends in other operations, which round differently: 2e-6 of the largest logit. ``logits`` runs
vision and FiLM on fewer rows than the stock call on repeated images, so matrix products may round differently there:
1e-4 in logits of standard deviation near 8.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import CLIPTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from zsad.config import ModelConfig
from zsad.errors import UsageError
from zsad.models import clipseg, clipseg_network, weights
from zsad.models.state_dicts import seeded

PROMPTS = ["an error", "a broken or missing part", "scratch"]


def sensible(name: str) -> clipseg.CLIPSegModel:
    """A random model whose logits spread like those of a trained one (standard deviation of several)."""
    module = seeded(lambda: clipseg_network.build(name))
    with torch.no_grad():
        module.decoder.transposed_convolution[-1].weight.mul_(200)
    return clipseg.CLIPSegModel(name, clipseg_network.ready(module, "cpu", "fp32"), "", "cpu", "fp32")


@pytest.fixture(scope="module")
def mini() -> clipseg.CLIPSegModel:
    return sensible("random-clipseg")


@pytest.fixture(scope="module")
def real() -> clipseg.CLIPSegModel:
    return sensible("clipseg-rd64-refined")


def tiles(count: int, seed: int = 0, side: int = 256) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def check_against_stock(model: clipseg.CLIPSegModel, count: int, prompts: list[str]) -> None:
    images = tiles(count, side=model.input_size)
    repeated = images.repeat_interleave(len(prompts), 0)
    tokens = model.tokenize(prompts).repeat(count, 1)
    with torch.no_grad():
        stock = model.module(pixel_values=repeated, input_ids=tokens)
        reduced = clipseg_network.reductions(model.module, repeated)
        same_shape = clipseg_network.decode(
            model.module, reduced, *clipseg_network.film(model.module, stock.conditional_embeddings)
        )
    assert stock.logits.std() > 1
    torch.testing.assert_close(same_shape, stock.logits, atol=2e-6 * float(stock.logits.abs().max()), rtol=0)
    shared = model.logits(images, model.embed_prompts(prompts))
    assert shared.shape == (count, len(prompts), model.input_size, model.input_size)
    torch.testing.assert_close(shared.flatten(0, 1), stock.logits, atol=1e-4, rtol=0)


def test_shared_route_equals_stock_at_real_shape(real: clipseg.CLIPSegModel) -> None:
    check_against_stock(real, 1, PROMPTS[:2])


@pytest.mark.parametrize("count", [1, 3])
def test_shared_route_equals_stock_on_mini(mini: clipseg.CLIPSegModel, count: int) -> None:
    check_against_stock(mini, count, PROMPTS)


def test_one_prompt_per_tile_equals_stock(mini: clipseg.CLIPSegModel) -> None:
    images, prompt = tiles(3), PROMPTS[:1]
    embedding = mini.embed_prompts(prompt)
    with torch.no_grad():
        stock = mini.module(pixel_values=images, conditional_embeddings=embedding.repeat(3, 1)).logits
    torch.testing.assert_close(mini.logits(images, embedding)[:, 0], stock, atol=1e-4, rtol=0)


def test_real_layout(real: clipseg.CLIPSegModel) -> None:
    state = real.module.state_dict()
    assert sum(value.numel() for value in state.values()) == 150_747_746
    for key, shape in {
        "clip.text_model.embeddings.token_embedding.weight": (49408, 512),
        "clip.vision_model.embeddings.patch_embedding.weight": (768, 3, 16, 16),
        "clip.vision_model.embeddings.position_embedding.weight": (197, 768),
        "clip.vision_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
        "clip.text_projection.weight": (512, 512),
        "decoder.film_mul.weight": (64, 512),
        "decoder.reduces.2.weight": (64, 768),
        "decoder.layers.0.mlp.fc1.weight": (2048, 64),
        "decoder.transposed_convolution.0.weight": (64, 64, 3, 3),
        "decoder.transposed_convolution.4.weight": (32, 1, 4, 4),
    }.items():
        assert tuple(state[key].shape) == shape
    assert real.module.config.extract_layers == [3, 6, 9]
    assert real.input_size == 352


def test_vision_runs_once_per_tile_and_stops_early(real: clipseg.CLIPSegModel) -> None:
    calls: list[tuple[int, int]] = []
    layers = real.module.clip.vision_model.encoder.layers
    hooks = [
        layer.register_forward_hook(lambda _m, args, _o, i=index: calls.append((i, len(args[0]))))
        for index, layer in enumerate(layers)
    ]
    real.logits(tiles(1, side=352), real.embed_prompts(PROMPTS[:2]))
    for hook in hooks:
        hook.remove()
    assert calls == [(index, 1) for index in range(10)]


def test_decoder_batches_are_bounded_and_change_nothing(mini: clipseg.CLIPSegModel) -> None:
    images, prompts = tiles(2), mini.embed_prompts(PROMPTS)
    whole = mini.logits(images, prompts)
    sizes: list[int] = []
    hook = mini.module.decoder.layers[0].self_attn.register_forward_pre_hook(
        lambda _m, args: sizes.append(len(args[0]))
    )
    with patch.object(clipseg, "DECODER_BATCH", 4):
        small = clipseg.CLIPSegModel(mini.name, mini.module, "", "cpu", "fp32")
    chunked = small.logits(images, prompts)
    hook.remove()
    assert sizes == [4, 2]
    torch.testing.assert_close(chunked, whole, atol=1e-4, rtol=0)


def test_tiles_do_not_influence_each_other(mini: clipseg.CLIPSegModel) -> None:
    images, prompts = tiles(3), mini.embed_prompts(PROMPTS)
    whole = mini.logits(images, prompts)
    torch.testing.assert_close(mini.logits(images[2:], prompts), whole[2:], atol=1e-4, rtol=0)
    assert (whole[0] - whole[1]).abs().max() > 0.1 and (whole[:, 0] - whole[:, 1]).abs().max() > 0.01


def test_a_cpu_takes_a_few_tiles_at_once_through_the_vision_tower(mini: clipseg.CLIPSegModel) -> None:
    images, sizes = tiles(6), []
    hook = mini.module.clip.vision_model.encoder.layers[0].register_forward_pre_hook(
        lambda _m, args: sizes.append(len(args[0]))
    )
    levels = mini.encode_tiles(images)
    hook.remove()
    assert sizes == [4, 2]
    whole = clipseg_network.reductions(mini.module, images)
    assert [level.shape for level in levels] == [(6, 257, 48)] * 2
    for level, expected in zip(levels, whole, strict=True):
        torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-5)


def test_empty_batches(mini: clipseg.CLIPSegModel) -> None:
    assert mini.logits(tiles(0), mini.embed_prompts(PROMPTS)).shape == (0, 3, 256, 256)
    assert mini.embed_prompts([]).shape == (0, 64)
    assert mini.logits(tiles(1), mini.embed_prompts([])).shape == (1, 0, 256, 256)


def test_the_position_table_is_interpolated_once(mini: clipseg.CLIPSegModel, monkeypatch: pytest.MonkeyPatch) -> None:
    images, prompts = tiles(2, side=128), mini.embed_prompts(PROMPTS)
    with torch.no_grad():
        stock = clipseg_network.reductions(mini.module, images)
        table = clipseg_network.position_table(mini.module, 128)
        kept = clipseg_network.reductions(mini.module, images, table)
    assert table.shape == (1, 65, 128)
    assert all(torch.equal(one, other) for one, other in zip(kept, stock, strict=True))
    model = clipseg.CLIPSegModel(mini.name, mini.module, "", "cpu", "fp32")
    model.input_size = 128
    expected = model.logits(images, prompts)
    monkeypatch.setattr(torch.nn.functional, "interpolate", None)
    assert torch.equal(model.logits(images, prompts), expected)


def test_the_position_table_learns() -> None:
    module = clipseg_network.build("mini-clipseg")
    clipseg_network.reductions(module, tiles(1))[0].sum().backward()
    gradient = module.clip.vision_model.embeddings.position_embedding.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_gradients_reach_the_decoder_and_the_vision_side() -> None:
    module = clipseg_network.build("mini-clipseg")
    reduced = clipseg_network.reductions(module, tiles(1))
    modulation = clipseg_network.film(module, torch.randn(1, 64))
    clipseg_network.decode(module, reduced, *modulation).square().mean().backward()
    for parameter in (
        module.clip.vision_model.embeddings.patch_embedding.weight,
        module.decoder.film_mul.weight,
        module.decoder.transposed_convolution[-1].weight,
    ):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_preprocess_is_the_checkpoints_processor(mini: clipseg.CLIPSegModel) -> None:
    processor = ViTImageProcessorPil(
        do_resize=True,
        size={"height": 256, "width": 256},
        resample=2,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    for shape in ((500, 500), (352, 352), (64, 64), (300, 410)):
        image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
        expected = processor(image, return_tensors="pt")["pixel_values"][0]
        ours = mini.preprocess([image])[0]
        assert ours.shape == (3, 256, 256) and ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected.float(), atol=1e-5, rtol=0)


def test_tokens_are_the_checkpoints(mini: clipseg.CLIPSegModel, tmp_path: Path) -> None:
    ours = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): index for token, index in ours.encoder.items()}
    merges = [" ".join(pair) for pair in sorted(ours.bpe_ranks, key=ours.bpe_ranks.__getitem__)]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}', "utf-8")
    stock = CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in [*PROMPTS, "An X-ray of 2 bent pins, isn't it?", "  Odd   spacing "]:
        ids = stock(text).input_ids
        assert mini.tokenize([text])[0].tolist() == ids


def test_padding_does_not_reach_the_text_feature(mini: clipseg.CLIPSegModel) -> None:
    tokens = mini.tokenize(PROMPTS)
    assert tokens.shape == (3, 7)
    end = tokens.argmax(1, keepdim=True)
    inside = torch.arange(tokens.shape[1])[None] <= end
    padded_as_transformers_does = torch.where(inside, tokens, 49407)
    with torch.no_grad():
        expected = mini.module.clip.get_text_features(
            padded_as_transformers_does, attention_mask=inside.long()
        ).pooler_output
        to_the_full_context = mini.module.clip.get_text_features(SimpleTokenizer()(PROMPTS)).pooler_output
    ours = mini.embed_prompts(PROMPTS)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours, to_the_full_context, atol=1e-5, rtol=0)
    alone = torch.cat([mini.embed_prompts([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


def test_long_prompts_are_refused(mini: clipseg.CLIPSegModel) -> None:
    with pytest.raises(UsageError, match="78 tokens; random-clipseg reads 77"):
        mini.embed_prompts(["part " * 76])


def test_untrained_mini_is_the_same_every_time_and_not_saturated() -> None:
    before = torch.get_rng_state()
    first, second = (clipseg.load(ModelConfig(name="random-clipseg")) for _ in range(2))
    assert first.sha256 == second.sha256 and torch.equal(torch.get_rng_state(), before)
    values = first.logits(tiles(1), first.embed_prompts(PROMPTS))
    assert 0 < values.std() < 5 and values.abs().max() < 10


def test_half_precision_comes_back_as_float32(mini: clipseg.CLIPSegModel) -> None:
    half = clipseg.CLIPSegModel(mini.name, mini.module, "", "cpu", "bf16")
    images, prompts = tiles(1), mini.embed_prompts(PROMPTS)
    exact, rounded = mini.logits(images, prompts), half.logits(images, prompts)
    assert rounded.dtype == half.embed_prompts(PROMPTS).dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().mean() < 0.05 * exact.std()


def test_old_files_with_position_indices_load(tmp_path: Path) -> None:
    state = clipseg_network.build("mini-clipseg").state_dict()
    stored = dict(state)
    stored["clip.text_model.embeddings.position_ids"] = torch.arange(77)[None].clone()
    stored["clip.vision_model.embeddings.position_ids"] = torch.arange(257)[None].clone()
    path = tmp_path / "w.safetensors"
    save_file(stored, path)
    model = clipseg.load(ModelConfig(name="random-clipseg", weights=str(path)))
    assert model.sha256 == weights.sha256_of(path)
    loaded = model.module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    del stored["decoder.film_add.bias"]
    save_file(stored, path)
    with pytest.raises(UsageError, match=r"decoder.film_add.bias"):
        clipseg.load(ModelConfig(name="random-clipseg", weights=str(path)))


def test_other_names_are_refused() -> None:
    with pytest.raises(UsageError, match="not a CLIPSeg model"):
        clipseg.load(ModelConfig(name="random-clip"))
    assert [clipseg_network.input_size(name) for name in ("mini-clipseg", "clipseg-rd64-refined")] == [256, 352]
