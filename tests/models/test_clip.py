"""CLIP through open_clip: preprocessing, layouts of published files, context lengths, unit vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CustomTextCLIP
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from zsad.config import ModelConfig
from zsad.errors import UsageError
from zsad.models import clip, weights
from zsad.models.state_dicts import load_into

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EXPECTED = {
    "ViT-B-16-plus-240/laion400m_e31": (208_377_345, 640, 240, *OPENAI, "bicubic", "shortest"),
    "ViT-L-14-336-quickgelu/openai": (427_944_193, 768, 336, *OPENAI, "bicubic", "shortest"),
    "ViT-H-14/laion2b_s32b_b79k": (986_109_441, 1024, 224, *OPENAI, "bicubic", "shortest"),
    "ViT-SO400M-16-SigLIP2-384/webli": (1_136_039_602, 1152, 384, *HALF, "bicubic", "squash"),
    "PE-Core-L-14-336/meta": (671_138_817, 1024, 336, *HALF, "bilinear", "squash"),
}


@pytest.fixture(scope="module")
def mini() -> clip.CLIPModel:
    return clip.load(ModelConfig(name="random-clip"))


def tile(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def batch(model: clip.CLIPModel, count: int) -> torch.Tensor:
    return model.preprocess([tile(120, 120, seed) for seed in range(count)])


@pytest.mark.parametrize("name", EXPECTED)
def test_registered_architectures_and_their_preprocessing(name: str) -> None:
    parameters, dimension, size, mean, std, interpolation, resize_mode = EXPECTED[name]
    with torch.device("meta"):
        module = clip.build(name)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    assert clip.model_config(name)["embed_dim"] == dimension
    config = clip.preprocess_config(name)
    assert (config.size, config.mean, config.std) == (size, mean, std)
    assert (config.interpolation, config.resize_mode) == (interpolation, resize_mode)


@pytest.mark.parametrize("shape", [(352, 352), (61, 61), (96, 96), (300, 200)])
@pytest.mark.parametrize("name", ["random-clip", "ViT-B-16-plus-240/laion400m_e31", "PE-Core-L-14-336/meta"])
def test_preprocess_is_open_clips(mini: clip.CLIPModel, name: str, shape: tuple[int, int]) -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    model = clip.CLIPModel(name, mini.module, tokenizer, "", "cpu", "fp32")
    size, mean, std, interpolation, resize_mode = EXPECTED.get(name, (0, 0, 160, *OPENAI, "bicubic", "shortest"))[2:]
    expected = image_transform(size, False, mean, std, resize_mode, interpolation)
    image = tile(*shape)
    ours = model.preprocess([image])[0]
    assert ours.shape == (3, model.input_size, model.input_size) and ours.dtype == torch.float32
    assert torch.equal(ours, expected(Image.fromarray(image)))


def test_square_tile_by_hand(mini: clip.CLIPModel) -> None:
    image = tile(200, 200)
    resized = np.asarray(Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC), np.float32) / 255
    expected = ((resized - OPENAI[0]) / OPENAI[1]).transpose(2, 0, 1)
    np.testing.assert_allclose(mini.preprocess([image])[0].numpy(), expected, atol=1e-5)


def test_embeddings_are_unit_float32(mini: clip.CLIPModel) -> None:
    images, texts = mini.embed_images(batch(mini, 5)), mini.embed_texts(["a part", "a damaged part"])
    for vectors, count in ((images, 5), (texts, 2)):
        assert vectors.shape == (count, mini.embed_dim) and vectors.dtype == torch.float32
        assert not vectors.requires_grad
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(count))
    assert mini.embed_texts([]).shape == (0, mini.embed_dim)
    assert mini.embed_images(torch.zeros(0, 3, 160, 160)).shape == (0, mini.embed_dim)
    assert mini.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)


def _sizes(module: torch.nn.Module, work: Callable[[], object]) -> list[int]:
    """Images of each call of ``module`` in the course of ``work``."""
    found: list[int] = []
    hook = module.register_forward_pre_hook(lambda _module, given: found.append(len(given[0])))
    work()
    hook.remove()
    return found


def test_embeddings_do_not_depend_on_the_batch(mini: clip.CLIPModel) -> None:
    images = batch(mini, 5)
    whole = mini.embed_images(images)
    with patch.object(clip, "images_at_once", lambda count, device: 2):
        assert _sizes(mini.module.visual, lambda: mini.embed_images(images)) == [2, 2, 1]
        torch.testing.assert_close(mini.embed_images(images), whole, atol=1e-5, rtol=0)
    assert _sizes(mini.module.visual, lambda: mini.embed_images(images)) == [4, 1]
    texts = [f"a photo of part {index}." for index in range(clip.TEXT_BATCH + 3)]
    many = mini.embed_texts(texts)
    torch.testing.assert_close(mini.embed_texts(texts[-1:]), many[-1:], atol=1e-5, rtol=0)


def test_embeddings_are_open_clips(mini: clip.CLIPModel) -> None:
    images, texts = batch(mini, 2), ["a flawless capsule", "capsule with damage"]
    tokens = open_clip.tokenize(texts)
    with torch.no_grad():
        expected = mini.module.encode_image(images, normalize=True), mini.module.encode_text(tokens, normalize=True)
    torch.testing.assert_close(mini.embed_images(images), expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(mini.embed_texts(texts), expected[1], atol=1e-6, rtol=0)


def test_mini_is_the_same_every_time_and_touches_no_random_state(mini: clip.CLIPModel) -> None:
    before = torch.get_rng_state()
    again = clip.load(ModelConfig(name="random-clip"))
    assert again.sha256 == mini.sha256 and len(mini.sha256) == 64
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_comes_back_as_float32(mini: clip.CLIPModel) -> None:
    half = clip.load(ModelConfig(name="random-clip"), precision="bf16")
    images = batch(mini, 3)
    vectors = half.embed_images(images)
    assert vectors.dtype == torch.float32 and half.embed_texts(["x"]).dtype == torch.float32
    similarity = (vectors * mini.embed_images(images)).sum(1)
    assert (similarity > 0.99).all() and not torch.equal(vectors, mini.embed_images(images))


@pytest.mark.parametrize("form", ["safetensors", "half", "wrapped"])
def test_published_forms_load(mini: clip.CLIPModel, tmp_path: Path, form: str) -> None:
    module = clip.build("random-clip")
    for value in module.state_dict().values():
        # New, the weights of some batch norms are 0, and what is multiplied by them would not show.
        value.copy_(value + 0.125)
    state = module.state_dict()
    path = tmp_path / ("file.pt" if form == "wrapped" else "file.safetensors")
    if form == "wrapped":
        torch.save({"epoch": 31, "state_dict": {f"module.{key}": v for key, v in state.items()}}, path)
    elif form == "half":
        save_file({key: v.half() if v.is_floating_point() else v for key, v in state.items()}, path)
    else:
        save_file(state, path)
    model = clip.load(ModelConfig(name="random-clip", weights=str(path)))
    assert model.sha256 == weights.sha256_of(path) != mini.sha256
    tolerance = 1e-3 if form == "half" else 0.0
    expected = clip.ready(module, "cpu", "fp32").state_dict()
    for key, value in model.module.state_dict().items():
        assert value.dtype == expected[key].dtype
        torch.testing.assert_close(value, expected[key], atol=tolerance, rtol=tolerance)


def test_old_layout_loads_into_a_model_with_its_own_text_tower() -> None:
    old = clip.build("random-clip").state_dict()
    module = CustomTextCLIP(**clip.model_config("random-clip"))
    old["logit_scale"] = old["logit_scale"].reshape(1)
    old["text.transformer.embeddings.position_ids"] = torch.arange(77)
    load_into(module, clip.to_module_layout(module, old), "test")
    assert torch.equal(module.text.token_embedding.weight, old["token_embedding.weight"])


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    state = clip.build("random-clip").state_dict()
    state["positional_embedding"] = torch.zeros(50, 64)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"positional_embedding \(50, 64\), expected \(77, 64\)"):
        clip.load(ModelConfig(name="random-clip", weights=str(tmp_path / "w.safetensors")))


def test_a_model_of_another_family_is_refused() -> None:
    with pytest.raises(UsageError, match="not a CLIP model"):
        clip.load(ModelConfig(name="sam-vit-b"))
    with pytest.raises(UsageError, match="text tower"):
        clip.build("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k")


def test_long_prompts_are_refused_never_cut(mini: clip.CLIPModel) -> None:
    fits, too_long = " ".join(["part"] * 75), " ".join(["part"] * 76)
    assert mini.tokenize([fits]).shape == (1, 77)
    with pytest.raises(UsageError, match="78 tokens; random-clip reads 77"):
        mini.embed_texts(["short", too_long])


def test_context_length_is_the_models_own(mini: clip.CLIPModel) -> None:
    name = "PE-Core-L-14-336/meta"
    model = clip.CLIPModel(name, mini.module, clip._tokenizer(ModelConfig(name=name)), "", "cpu", "fp32")
    assert model.context_length == 32 and model.tokenize(["part " * 30]).shape == (1, 32)
    with pytest.raises(UsageError, match="33 tokens"):
        model.tokenize(["part " * 31])


def test_siglip_reads_its_own_tokenizer_files(
    mini: clip.CLIPModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ViT-SO400M-16-SigLIP2-384/webli"
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZSAD_WEIGHTS", raising=False)
    with pytest.raises(UsageError, match=r"tokenizer.json"):
        clip.load(ModelConfig(name=name))
    folder = tmp_path / "cache" / "weights" / "ViT-SO400M-16-SigLIP2-384-webli-tokenizer"
    folder.mkdir(parents=True)
    words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "part": 3}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}'
    )
    model = clip.CLIPModel(name, mini.module, clip._tokenizer(ModelConfig(name=name)), "", "cpu", "fp32")
    tokens = model.tokenize(["A part!"])
    assert model.context_length == 64 and tokens.shape == (1, 64) and tokens[0, :3].tolist() == [2, 3, 0]
    with pytest.raises(UsageError, match="65 tokens"):
        model.tokenize(["part " * 65])


def test_only_convolutional_towers_compute_channels_last_on_a_cpu():
    convolutional = clip.build("random-clip").eval()
    pixels = torch.rand(3, 3, 160, 160, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = convolutional.encode_image(pixels)
        ready = clip.ready(convolutional, "cpu", "fp32")
        torch.testing.assert_close(ready.encode_image(pixels), expected, atol=1e-6, rtol=1e-5)
    assert ready.visual.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    transformer = clip.ready(clip.build("ViT-B-32/openai"), "cpu", "fp32")
    assert transformer.visual.conv1.weight.is_contiguous()
