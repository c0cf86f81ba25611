"""CLIPSeg (Lueddecke and Ecker, CVPR 2022) through transformers: one vision pass per tile for all prompts.

The prompt enters only at the decoder's first step (FiLM), so everything before it is shared: the vision
layers up to the last one that is read and the reductions once per tile, text and FiLM once per prompt
(``clipseg_network``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from transformers import CLIPSegForImageSegmentation

from zsad.errors import UsageError
from zsad.models.clipseg_decoder import FusedDecoder
from zsad.models.clipseg_network import build, decode, film, input_size, position_table, ready, reductions
from zsad.models.device import DTYPES, autocast, host_tensor, images_at_once
from zsad.models.state_dicts import seeded
from zsad.models.triton_support import kernel_dtype
from zsad.models.weights import restore
from zsad.resize import Normalisation, Padded, resize_into
from zsad.threads import in_threads

if TYPE_CHECKING:
    from zsad.config import ModelConfig, Precision

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
TEXT_BATCH = 256
DECODER_BATCH, DECODER_BATCH_ON_GPU = 64, 144
"""The most (tile, prompt) pairs per decoder call, on a CPU and on a GPU."""
_BATCHES_FUSED = 4
"""The number of decoder batches that the fused kernels take as one, since they keep no hidden layer in memory.

This is more than it takes to fill a GPU, but fewer kernels have to be launched.
"""
_NORMALISATION = Normalisation(255, MEAN, STD)


class CLIPSegModel:
    """A CLIPSeg model ready to segment.

    Attributes:
        name: as in the configuration.
        module: the transformers model, made ready by ``clipseg_network.ready``.
        input_size: side S of the square input and of the logits, pixels.
        max_decoder_batch: most (tile, prompt) pairs per decoder call; bounds memory. Four times as many where kernels
            hold less of each.
        sha256: hash of the weights.
        device, precision: where and how it computes.
    """

    def __init__(
        self,
        name: str,
        module: CLIPSegForImageSegmentation,
        sha256: str,
        device: str,
        precision: Precision,
    ) -> None:
        self.name = name
        config: Any = module.config
        self.module: Any = module
        self.input_size = input_size(name)
        self.context_length = int(config.text_config.max_position_embeddings)
        on_cpu = torch.device(device).type == "cpu"
        self.max_decoder_batch = DECODER_BATCH if on_cpu else DECODER_BATCH_ON_GPU
        self.sha256 = sha256
        self.device = device
        self.precision = precision
        self._tokenizer = SimpleTokenizer(context_length=self.context_length)

    def preprocess(self, tiles: Sequence[NDArray[np.uint8] | Padded], threads: int = 1) -> Tensor:
        """Bilinear resize to the input size, ImageNet mean and std: the checkpoint's own preprocessing.

        Args:
            tiles: N of (h, w, 3) uint8 RGB.
            threads: how many are resized at once.

        Returns:
            (N, 3, S, S) float32 on the host.
        """
        output = host_tensor((len(tiles), 3, self.input_size, self.input_size), self.device)
        work = partial(resize_into, kernel="bilinear", normalisation=_NORMALISATION)
        in_threads(work, output.numpy(), tiles, threads=threads)
        return output

    def tokenize(self, prompts: list[str]) -> Tensor:
        """(P, L) int64 tokens, L that of the longest prompt.

        The byte-pair encoding is CLIP's, so no tokenizer files are needed. The padding's value does not
        matter: attention is causal and the feature is read at the end token, before any padding.

        Raises:
            UsageError: a prompt does not fit the context length.
        """
        counts = [len(self._tokenizer.encode(prompt)) + 2 for prompt in prompts]
        for prompt, count in zip(prompts, counts, strict=True):
            if count > self.context_length:
                raise UsageError(
                    f"The prompt {prompt!r} has {count} tokens; {self.name} reads {self.context_length}. Shorten it."
                )
        return self._tokenizer(prompts)[:, : max(counts)]

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> Tensor:
        """Text projection output of every prompt, not normalised.

        Returns:
            (P, D) float32 on ``device``.

        Raises:
            UsageError: a prompt does not fit the context length.
        """
        parts = [torch.zeros((0, self.module.config.projection_dim), device=self.device)]
        if prompts:
            for tokens in self.tokenize(prompts).to(self.device).split(TEXT_BATCH):
                with autocast(self.device, self.precision):
                    parts.append(self.module.clip.get_text_features(tokens).pooler_output.float())
        return torch.cat(parts)

    def logits(self, batch: Tensor, prompt_embeddings: Tensor) -> Tensor:
        """Segmentation logits of every tile for every prompt.

        Equal to the stock ``CLIPSegForImageSegmentation`` call on images repeated once per prompt to about 1e-5: matrix
        products round differently at other shapes.

        Args:
            batch: (N, 3, S, S) float32 from ``preprocess``, on any device; one vision pass.
            prompt_embeddings: (P, D) float32 from ``embed_prompts``.

        Returns:
            (N, P, S, S) float32 on ``device``, before the sigmoid.
        """
        if not len(batch):
            return torch.empty((0, len(prompt_embeddings), self.input_size, self.input_size), device=self.device)
        return self.decode_tiles(self.encode_tiles(batch), prompt_embeddings)

    @torch.no_grad()
    def encode_tiles(self, batch: Tensor) -> list[Tensor]:
        """The first half of ``logits``, one vision pass: what the decoder reads, one (N, tokens, C) per level."""
        parts = []
        for some in batch.split(images_at_once(len(batch), self.device)):
            with autocast(self.device, self.precision):
                parts.append(reductions(self.module, some.to(self.device, non_blocking=True), self._positions))
        return parts[0] if len(parts) == 1 else [torch.cat(levels) for levels in zip(*parts, strict=True)]

    @torch.no_grad()
    def decode_tiles(self, levels: Sequence[Tensor], prompt_embeddings: Tensor) -> Tensor:
        """The second half of ``logits``, of all tiles of ``encode_tiles`` or of some: (N, P, S, S)."""
        tiles, prompts, side = len(levels[0]), len(prompt_embeddings), self.input_size
        output = torch.empty((tiles * prompts, side, side), device=self.device)
        if output.numel():
            pairs = torch.arange(len(output), device=self.device)
            tile, prompt = pairs // prompts, pairs % prompts
            with autocast(self.device, self.precision):
                fused = None if kernel_dtype(output.device) is None else self._fused
                scale, shift = film(self.module, prompt_embeddings.to(self.device, non_blocking=True))
                size = self.max_decoder_batch * (1 if fused is None else _BATCHES_FUSED)
                for start in range(0, len(output), size):
                    some = slice(start, start + size)
                    chosen = [level[tile[some]] for level in levels]
                    modulation = scale[prompt[some]], shift[prompt[some]]
                    decode(self.module, chosen, *modulation, output[some], fused)
        return output.view(tiles, prompts, side, side)

    def tiles_at_once(self, prompts: int) -> int | None:
        """How many tiles to decode at once for so many prompts, None = all.

        On a CPU as many as one decoder call takes: logits of hundreds of megabytes would be new memory in every batch,
        and to get that from the system takes longer than to fill it.
        """
        return max(1, self.max_decoder_batch // max(1, prompts)) if torch.device(self.device).type == "cpu" else None

    @cached_property
    def _positions(self) -> Tensor:
        return position_table(self.module, self.input_size)

    @cached_property
    def _fused(self) -> FusedDecoder | None:
        """A decoder made of the parameters as they are now, or None where they do not suit the kernels."""
        if not FusedDecoder.suits(self.module.config):
            return None
        return FusedDecoder(self.module.decoder, DTYPES[self.precision])


def load(config: ModelConfig, device: str = "cpu", precision: Precision = "fp32") -> CLIPSegModel:
    """Build the CLIPSeg model that a configuration names and load its weights.

    Raises:
        UsageError: not a CLIPSeg model, weights missing or not fitting.
    """
    module = seeded(lambda: build(config.name))
    sha256 = restore(module, config, convert=_without_position_ids)
    return CLIPSegModel(config.name, ready(module, device, precision), sha256, device, precision)


def _without_position_ids(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Older files carry the position indices (a counter, not weights) that newer modules recompute."""
    return {key: value for key, value in state.items() if not key.endswith(".position_ids")}
