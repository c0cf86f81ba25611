"""Mini CLIPSeg: prompts that name defects light up every defect of a crop, all other prompts nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.train_mini.data import Crops, Draw, tensors, view, whitening, window
from tools.train_mini.loop import Plan, train
from tools.train_mini.words import Captions, SubwordEmbedding
from zsad.datasets.synthetic import DEFECTS
from zsad.models import clipseg, clipseg_network
from zsad.models.state_dicts import seeded

BATCH = 32
WINDOW, WINDOWS = 96, 64
"""Side and number of the windows of one step of the first part."""
WHOLE = (213, 320)
"""Sides, in pixels, at which whole tiles are shown through those windows."""
FIRST = 0.8
"""Share of the steps on windows."""
MEAN = torch.tensor(clipseg.MEAN).view(3, 1, 1) * 255
STD = torch.tensor(clipseg.STD).view(3, 1, 1) * 255


class Student(nn.Module):
    """The CLIPSeg model with its token table replaced by n-grams while it learns; only parts that are read train."""

    def __init__(self) -> None:
        super().__init__()
        self.clipseg = clipseg_network.build("mini-clipseg")
        embeddings = self.clipseg.clip.text_model.embeddings
        table = embeddings.token_embedding
        table.requires_grad_(False)
        self.words = SubwordEmbedding(table.embedding_dim)
        config = self.clipseg.config
        # These heads teach the vision tower and are not kept.
        self.where = nn.ModuleList([nn.Linear(config.reduce_dim, 1) for _ in config.extract_layers])
        nn.init.constant_(self.clipseg.decoder.transposed_convolution[-1].bias, -3.0)

    def texts(self, tokens: Tensor) -> Tensor:
        """(P, L) tokens -> (P, D), as ``get_text_features``."""
        model = self.clipseg.clip
        text = model.text_model
        hidden = self.words(tokens) + text.embeddings.position_embedding.weight[: tokens.shape[1]]
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None].expand(len(tokens), 1, length, length)
        for layer in text.encoder.layers:
            hidden = layer(hidden, mask)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = text.final_layer_norm(hidden)
        return model.text_projection(hidden[torch.arange(len(tokens)), tokens.argmax(1)])

    def reductions(self, pixels: Tensor, corner: tuple[int, int]) -> list[Tensor]:
        """As ``zsad.models.clipseg_network.reductions`` for a window whose first patch is at row, column ``corner``."""
        vision = self.clipseg.clip.vision_model
        patches = vision.embeddings.patch_embedding(pixels)
        table = vision.embeddings.position_embedding.weight
        whole = math.isqrt(len(table) - 1)
        (top, left), (rows, columns) = corner, patches.shape[-2:]
        grid = table[1:].unflatten(0, (whole, whole))[top : top + rows, left : left + columns].flatten(0, 1)
        start = (vision.embeddings.class_embedding + table[0]).expand(len(pixels), 1, -1)
        hidden = vision.pre_layrnorm(torch.cat([start, patches.flatten(2).transpose(1, 2) + grid], 1))
        outputs = []
        for layer in vision.encoder.layers[: max(self.clipseg.config.extract_layers) + 1]:
            hidden = layer(hidden, None)
            outputs.append(hidden)
        read = reversed(list(self.clipseg.config.extract_layers))
        return [reduce(outputs[i]) for i, reduce in zip(read, self.clipseg.decoder.reduces, strict=True)]

    def forward(self, pixels: Tensor, tokens: Tensor, corner: tuple[int, int]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(N, 3, S, S), (N, L) prompts, first patch -> (N, S, S) logits, (N, D) prompts, the patch logits of every level."""
        prompts = self.texts(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = self.reductions(pixels, corner)
            logits = clipseg_network.decode(self.clipseg, reduced, *clipseg_network.film(self.clipseg, prompts))
        places = [head(level[:, 1:].float())[..., 0] for head, level in zip(self.where, reduced, strict=True)]
        return logits.float(), prompts, places

    @torch.no_grad()
    def finished(self) -> dict[str, Tensor]:
        """The state dict of the plain transformers model."""
        self.clipseg.clip.text_model.embeddings.token_embedding.weight.copy_(self.words.table())
        return self.clipseg.state_dict()


def train_clipseg(crops: Crops, folder: Path, seed: int, steps: int) -> tuple[dict[str, Tensor], float]:
    """Returns (state dict, CPU minutes)."""
    student = seeded(Student, seed)
    vision = student.clipseg.clip.vision_model.embeddings
    with torch.no_grad():
        width, _, patch, _ = vision.patch_embedding.weight.shape
        vision.patch_embedding.weight.copy_(whitening(crops.crops, patch, width, MEAN, STD))
    captions = Captions()
    tokenizer = clipseg.SimpleTokenizer(context_length=77)
    labels, draw = np.asarray(crops.crop_labels), Draw(crops, 1.0)
    side = clipseg_network.input_size("mini-clipseg")

    def step(rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        local = number < FIRST * steps
        count = WINDOWS if local else BATCH
        chosen = draw(rng, count, 1, 3)
        corner = (0, 0)
        if local:
            corner = tuple(int(n) for n in rng.integers((side - WINDOW) // 16 + 1, size=2))
            whole = np.exp(rng.uniform(*np.log(WHOLE), WINDOWS))
            views = [window(rng, crops, int(i), WINDOW, float(size)) for i, size in zip(chosen, whole, strict=True)]
        else:
            near = 0.5 * (1 - number / steps) / (1 - FIRST)
            views = [view(rng, crops, int(i), side, near) for i in chosen]
        pixels, truth = tensors(views, MEAN, STD)
        # A quarter of the prompts names nothing: nothing may light up, whatever the crop shows.
        blank = rng.random(count) < 0.25
        named = [(captions.nothing(rng), ()) if empty else captions.localising(rng) for empty in blank]
        tokens = tokenizer([text for text, _ in named])
        tokens = tokens[:, : int(tokens.argmax(1).max()) + 1]
        shown = truth * torch.from_numpy(~blank).float()[:, None, None]
        logits, prompts, places = student(pixels, tokens, corner)
        own = torch.tensor(
            [
                1.0 + float(bool(means) and 0 < label <= len(DEFECTS) and DEFECTS[label - 1] in means)
                for (_, means), label in zip(named, labels[chosen], strict=True)
            ]
        )
        found, missed = _segmentation(logits, shown, own)
        # The sign of one feature says whether a prompt names defects: language learns before vision has anything
        # to be asked about. And each level that is read shows where defects are, whatever the prompt.
        meaning = F.binary_cross_entropy_with_logits(prompts[:, 0], torch.from_numpy(~blank).float())
        coarse = F.adaptive_max_pool2d(truth[:, None], truth.shape[-1] // 16).flatten(1)
        seen = torch.stack(
            [F.binary_cross_entropy_with_logits(place, coarse, pos_weight=torch.tensor(3.0)) for place in places]
        ).sum()
        loss = found + 0.3 * meaning + seen
        return loss, {"dice": missed, "meaning": float(meaning.detach()), "seen": float(seen.detach())}

    minutes = train(Plan("clipseg", seed, steps, 1e-3, 0.05), student, step, folder)
    return student.finished(), minutes


def _segmentation(logits: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy and soft Dice; both per crop, weighted. Small defects count as much as large ones in Dice."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    # Focal: most of a crop is easily sound.
    entropy = (entropy * (torch.sigmoid(logits) - truth).abs().detach() ** 0.5).mean((1, 2))
    shown = torch.sigmoid(logits)
    overlap = (shown * truth).sum((1, 2))
    dice = 1 - (2 * overlap + 20) / (shown.square().sum((1, 2)) + truth.square().sum((1, 2)) + 20)
    faulty = truth.flatten(1).amax(1) > 0.25
    # Across the batch: a single threshold serves all crops in the end.
    pooled = 1 - 2 * overlap.sum() / (shown.square().sum() + truth.square().sum() + 1)
    loss = (weight * (6 * entropy + 0.5 * dice * faulty)).mean() + 0.5 * pooled
    return loss, float(dice[faulty].detach().mean())
