"""CLIP through open_clip: image tiles and prompts to unit vectors in one space (paper section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.convert import convert_state_dict
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose

from zsad.errors import UsageError
from zsad.models import clip_resnet
from zsad.models.device import autocast, host_tensor, images_at_once, place
from zsad.models.registry import entry
from zsad.models.state_dicts import seeded
from zsad.models.weights import locate_tokenizer, restore
from zsad.resize import Filter, Normalisation, Padded, resize_into
from zsad.threads import in_threads

if TYPE_CHECKING:
    from zsad.config import ModelConfig, Precision

TEXT_BATCH = 256


class CLIPModel:
    """A CLIP model ready to embed.

    Attributes:
        name: as in the configuration.
        module: the open_clip model, made ready by ``ready``.
        input_size: side S of the square input, pixels.
        embed_dim: D.
        context_length: tokens a prompt may have, start and end included.
        logit_scale: the factor on similarities, ``exp`` already applied (about 100 when trained).
        sha256: hash of the weights.
        device, precision: where and how it computes.
    """

    def __init__(
        self, name: str, module: nn.Module, tokenizer: Any, sha256: str, device: str, precision: Precision
    ) -> None:
        config = preprocess_config(name)
        self.name = name
        self.module: Any = module
        self.tokenizer = tokenizer
        self.context_length = int(tokenizer.context_length)
        self.input_size = int(config.size if isinstance(config.size, int) else config.size[0])
        self.embed_dim = int(model_config(name)["embed_dim"])
        self.logit_scale = float(torch.as_tensor(module.logit_scale).detach().float().exp())
        self.sha256 = sha256
        self.device = device
        self.precision = precision
        transform = image_transform_v2(config, is_train=False).transforms
        # All but the last two steps, to a tensor and normalised.
        self._place = Compose(transform[:-2])
        mean, std = (tuple(map(float, values)) for values in (config.mean, config.std))
        self._normalisation = Normalisation(255, mean, std)  # type: ignore[arg-type]
        self._kernel: Filter = "bilinear" if config.interpolation == "bilinear" else "bicubic"

    def preprocess(self, tiles: Sequence[NDArray[np.uint8] | Padded], threads: int = 1) -> Tensor:
        """Tiles as the checkpoint wants them: its own resize, interpolation, mean and std.

        Args:
            tiles: N of (h, w, 3) uint8 RGB; padded ones square.
            threads: how many are resized at once.

        Returns:
            (N, 3, S, S) float32 on the host. A tile that is not square is resized and cropped as open_clip does.
        """
        side = self.input_size
        output = host_tensor((len(tiles), 3, side, side), self.device)
        in_threads(self._resize_into, output.numpy(), tiles, threads=threads)
        return output

    def _resize_into(self, output: NDArray[np.float32], tile: NDArray[np.uint8] | Padded) -> None:
        # Of a square, all of open_clip's resize modes make the same.
        if not isinstance(tile, Padded) and tile.shape[0] != tile.shape[1]:
            tile = np.asarray(self._place(Image.fromarray(tile)))
        resize_into(output, tile, self._kernel, self._normalisation)

    def tokenize(self, texts: list[str]) -> Tensor:
        """(P, context_length) int64 tokens.

        Raises:
            UsageError: a prompt has more tokens than the model reads; nothing is ever cut off.
        """
        for text in texts:
            count = _token_count(self.tokenizer, text)
            if count > self.context_length:
                raise UsageError(
                    f"The prompt {text!r} has {count} tokens; {self.name} reads {self.context_length}. "
                    f"Shorten the noun or the states, or choose a model with a longer context."
                )
        return self.tokenizer(texts)

    @torch.no_grad()
    def embed_images(self, batch: Tensor) -> Tensor:
        """Unit image embeddings; all images of the batch at once on a GPU, a few on a CPU.

        Args:
            batch: (N, 3, S, S) float32 from ``preprocess``, on any device.

        Returns:
            (N, D) float32 on ``device``, each row of length 1.
        """
        return self._embed(batch, images_at_once(len(batch), self.device), self.module.encode_image)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit text embeddings, encoded in batches.

        Returns:
            (P, D) float32 on ``device``, each row of length 1.

        Raises:
            UsageError: a prompt does not fit the context length.
        """
        if not texts:
            return torch.zeros((0, self.embed_dim), device=self.device)
        return self._embed(self.tokenize(texts), TEXT_BATCH, self.module.encode_text)

    def _embed(self, inputs: Tensor, size: int, encode: Any) -> Tensor:
        parts = [torch.zeros((0, self.embed_dim), device=self.device)]
        for chunk in inputs.split(size):
            with autocast(self.device, self.precision):
                parts.append(encode(chunk.to(self.device, non_blocking=True)).float())
        return nn.functional.normalize(torch.cat(parts), dim=-1)


def load(config: ModelConfig, device: str = "cpu", precision: Precision = "fp32") -> CLIPModel:
    """Build the CLIP model that a configuration names and load its weights.

    Raises:
        UsageError: unknown model, a text side this program cannot build offline, weights or tokenizer
            files missing or not fitting.
    """
    if entry(config.name).family != "clip":
        raise UsageError(f"{config.name!r} is not a CLIP model. Expected e.g. ViT-B-16-plus-240/laion400m_e31.")
    tokenizer = _tokenizer(config)
    module = seeded(lambda: build(config.name))
    sha256 = restore(module, config, convert=lambda state: to_module_layout(module, state))
    return CLIPModel(config.name, ready(module, device, precision), tokenizer, sha256, device, precision)


def ready(module: nn.Module, device: str, precision: Precision) -> nn.Module:
    """Make a module ready for inference, in place; its text tower computes in the type of its weights: float32."""
    visual = cast(nn.Module, module.visual)
    if isinstance(visual, ModifiedResNet):
        clip_resnet.fold_batch_norms(visual)
    if torch.device(device).type == "cpu" and sum(isinstance(layer, nn.Conv2d) for layer in visual.modules()) > 1:
        # A convolutional tower, which takes a fifth less time in this layout. A transformer convolves once.
        visual.to(memory_format=torch.channels_last)
    return place(module, device, precision, [visual])


def build(name: str) -> nn.Module:
    """The untrained open_clip module of a model name, on the CPU, float32.

    ``open_clip.create_model`` is not called: without weights it logs through the root logger.
    """
    config = model_config(name)
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        raise UsageError(
            f"{name}: its text tower is not open_clip's own. Expected a CLIP model with a text tower of "
            f"open_clip, such as ViT-B-16-plus-240/laion400m_e31."
        )
    custom = config.pop("custom_text", False)
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    return CustomTextCLIP(**config) if custom else CLIP(**config)


def model_config(name: str) -> dict[str, Any]:
    """open_clip's architecture configuration of a ``MODEL/TAG`` name, or the small one; a copy."""
    if name in ("mini-clip", "random-clip"):
        return {
            "embed_dim": 64,
            "vision_cfg": {"image_size": 256 if name == "mini-clip" else 160, "layers": [1, 2, 2, 1], "width": 24},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 4},
        }
    return open_clip.get_model_config(name.rpartition("/")[0])


def preprocess_config(name: str) -> PreprocessCfg:
    """Size, mean, std, interpolation and resize mode that the checkpoint was trained with."""
    model, _, tag = name.rpartition("/")
    size = model_config(name)["vision_cfg"]["image_size"]
    overlay = {**open_clip.get_pretrained_cfg(model, tag), "size": size}
    return PreprocessCfg(**merge_preprocess_dict(asdict(PreprocessCfg()), overlay))


def to_module_layout(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published file's layout changed into the module's, as open_clip's own loader does.

    Sizes are never adapted: a file of another input size is refused by the strict load that follows.
    """
    state = convert_state_dict(module, state)
    if "positional_embedding" in state and not hasattr(module, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    state.pop("text.transformer.embeddings.position_ids", None)
    for key in ("logit_scale", "logit_bias"):
        parameter = getattr(module, key, None)
        if key in state and parameter is not None and state[key].numel() == 1:
            state[key] = state[key].reshape(parameter.shape)
    return state


def _tokenizer(config: ModelConfig) -> Any:
    text = model_config(config.name)["text_cfg"]
    folder: Path | None = locate_tokenizer(config.name, config.weights)
    length = text.get("context_length", 77)
    if folder is None:
        return SimpleTokenizer(context_length=length, **text.get("tokenizer_kwargs", {}))
    return HFTokenizer(
        str(folder),
        context_length=length,
        tokenizer_mode=text.get("tokenizer_mode"),
        **text.get("tokenizer_kwargs", {}),
    )


def _token_count(tokenizer: Any, text: str) -> int:
    if isinstance(tokenizer, HFTokenizer):
        return len(tokenizer.tokenizer(tokenizer.clean_fn(text)).input_ids)
    return len(tokenizer.encode(text)) + 2
