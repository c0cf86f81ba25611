"""Mini CLIPSeg: prompts that name defects light up every defect of a crop, all other prompts nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tools.train_mini.data import Pictures, balanced, view
from tools.train_mini.loop import Plan, train
from tools.train_mini.words import Captions, SubwordEmbedding
from zsad.datasets.synthetic import DEFECTS
from zsad.models import clipseg
from zsad.models.weights import seeded

BATCH = 32
MEAN = torch.tensor(clipseg.MEAN).view(3, 1, 1) * 255
STD = torch.tensor(clipseg.STD).view(3, 1, 1) * 255


class Student(nn.Module):
    """The CLIPSeg model with its token table replaced by n-grams while it learns; only parts that are read train."""

    def __init__(self) -> None:
        super().__init__()
        self.clipseg = clipseg.build("mini-clipseg")
        embeddings = self.clipseg.clip.text_model.embeddings
        table = embeddings.token_embedding
        table.requires_grad_(False)
        self.words = SubwordEmbedding(table.embedding_dim)
        with torch.no_grad():
            # CLIP's own spreads are meant for its widths; at this size they are too faint to learn from quickly.
            vision = self.clipseg.clip.vision_model.embeddings
            vision.patch_embedding.weight.normal_(0, 0.04)
            vision.position_embedding.weight.normal_(0, 0.02)

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

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """(N, 3, S, S), (K N, L) prompts, N at a time -> (K N, S, S) logits."""
        prompts = self.texts(tokens)
        repeats = len(prompts) // len(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = [level.repeat(repeats, 1, 1) for level in clipseg.reductions(self.clipseg, pixels)]
            logits = clipseg.decode(self.clipseg, reduced, *clipseg.film(self.clipseg, prompts))
        return logits.float()

    @torch.no_grad()
    def finished(self) -> dict[str, Tensor]:
        """The state dict of the plain transformers model."""
        self.clipseg.clip.text_model.embeddings.token_embedding.weight.copy_(self.words.table())
        return self.clipseg.state_dict()


def train_clipseg(pictures: Pictures, folder: Path, seed: int, steps: int) -> tuple[dict[str, Tensor], float]:
    """Returns (state dict, CPU minutes)."""
    student = seeded(Student, seed)
    captions = Captions()
    tokenizer = clipseg.SimpleTokenizer(context_length=77)
    labels, kinds = np.asarray(pictures.crop_labels), np.asarray(pictures.crop_kinds)
    side = clipseg.input_size("mini-clipseg")

    def step(rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        # Two sound crops of three teach little about where defects are: a quarter of them is enough.
        chosen = balanced(rng, labels, kinds, BATCH)
        for n in range(0, BATCH, 4):
            chosen[n] = chosen[n + 1] if n % 32 else chosen[n]
        views = [view(rng, pictures, int(i), side) for i in chosen]
        pixels = (torch.from_numpy(np.stack([v[0] for v in views])).permute(0, 3, 1, 2).float() - MEAN) / STD
        truth = torch.from_numpy(np.stack([v[1] for v in views])).float() / 255
        named = [captions.localising(rng) for _ in chosen]
        silent = [captions.nothing(rng) for _ in range(BATCH // 2)]
        tokens = tokenizer([text for text, _ in named] + silent + silent)
        tokens = tokens[:, : int(tokens.argmax(1).max()) + 1]
        if number % 2:
            tokens = tokens[:BATCH]
            logits, empty = student(pixels, tokens), None
        else:
            both = student(pixels, tokens)
            logits, empty = both[:BATCH], both[BATCH:]
        own = torch.tensor([
            1.0 + float(bool(means) and 0 < label <= len(DEFECTS) and DEFECTS[label - 1] in means)
            for (_, means), label in zip(named, labels[chosen], strict=True)
        ])
        found, missed = _segmentation(logits, truth, own)
        loss = found
        if empty is not None:
            loss = loss + 0.5 * F.softplus(empty).mean() + 0.05 * F.softplus(empty).flatten(1).amax(1).mean()
        return loss, {"dice": missed}

    minutes = train(Plan("clipseg", seed, steps, 1.2e-3, 0.05), student, step, folder)
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
