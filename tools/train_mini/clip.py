"""Mini CLIP: crops of sound and of damaged objects against captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tools.train_mini.data import EMPTY, TABLE, Crops, Draw, tensors, view, window
from tools.train_mini.loop import Plan, train
from tools.train_mini.words import ANOMALOUS_STATES, NORMAL_STATES, Captions, SubwordEmbedding
from zsad.models import clip
from zsad.models.state_dicts import seeded

BATCH, EACH = 48, 2
"""Crops of one step, and how many of one kind are sound and how many faulty."""
WINDOW, WINDOWS = 64, 96
"""Side and number of the windows of one step of the first part."""
WHOLE = (140, 288)
"""Sides, in pixels, at which whole tiles are shown through those windows."""
FIRST = 0.765
"""Share of the steps on windows, where the image tower learns what a defect looks like; captions come after."""
SETTLED = 500
"""Steps on whole crops after which the texts learn at every fifth step only."""
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1) * 255
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1) * 255


class Student(nn.Module):
    """The open_clip model with its token table replaced by n-grams while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = clip.build("mini-clip")
        width = self.clip.token_embedding.embedding_dim  # type: ignore[union-attr, operator]
        self.words = SubwordEmbedding(width)  # type: ignore[arg-type]
        self.clip.token_embedding.requires_grad_(False)  # type: ignore[union-attr, operator]
        # Where a defect is teaches the image tower sooner than whether there is one; these heads are not kept.
        stages = [self.clip.visual.layer2, self.clip.visual.layer3, self.clip.visual.layer4]
        self.where = nn.ModuleList([nn.Conv2d(stage[-1].conv3.out_channels, 1, 1) for stage in stages])
        self.seen: dict[int, Tensor] = {}
        for number, stage in enumerate(stages):
            stage.register_forward_hook(lambda _module, _given, out, n=number: self.seen.__setitem__(n, out))

    def texts(self, tokens: Tensor) -> Tensor:
        """(P, L) tokens -> (P, D) unit. As open_clip's ``encode_text``, on the first L positions only."""
        model, length = self.clip, tokens.shape[1]
        hidden = self.words(tokens) + model.positional_embedding[:length]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
        end = hidden[torch.arange(len(tokens)), tokens.argmax(1)]
        return F.normalize(end @ model.text_projection, dim=-1)

    def images(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, D) unit. What the windows taught the lower half stays as it is."""
        visual = self.clip.visual
        for lower in (visual.bn1, visual.bn2, visual.bn3, visual.layer1, visual.layer2):  # type: ignore[union-attr]
            lower.eval()  # type: ignore[union-attr]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                hidden = visual.stem(pixels.to(memory_format=torch.channels_last))  # type: ignore[operator, union-attr]
                hidden = visual.layer2(visual.layer1(hidden))  # type: ignore[operator, union-attr]
            features = visual.attnpool(visual.layer4(visual.layer3(hidden)))  # type: ignore[operator, union-attr]
        return F.normalize(features.float(), dim=-1)

    def look(self, pixels: Tensor) -> None:
        """(N, 3, S, S) of any size, as far as ``places`` needs it."""
        visual = self.clip.visual
        with torch.autocast("cpu", torch.bfloat16):
            hidden = visual.stem(pixels.to(memory_format=torch.channels_last))  # type: ignore[operator, union-attr]
            for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
                hidden = stage(hidden)  # type: ignore[operator]

    def places(self, coverage: Tensor) -> Tensor:
        """Loss of the maps of the last images against the defects (N, S, S) in [0, 1]."""
        losses = []
        for number, head in enumerate(self.where):
            if not self.seen[number].requires_grad:
                continue
            logits = head(self.seen[number].float())
            truth = F.adaptive_max_pool2d(coverage[:, None], logits.shape[-2:])
            losses.append(F.binary_cross_entropy_with_logits(logits, truth))
        return torch.stack(losses).sum()

    @torch.no_grad()
    def finished(self) -> dict[str, Tensor]:
        """The state dict of the plain open_clip model."""
        self.clip.token_embedding.weight.copy_(self.words.table())
        return self.clip.state_dict()


def train_clip(crops: Crops, folder: Path, seed: int, steps: int) -> tuple[dict[str, Tensor], float]:
    """Returns (state dict, CPU minutes)."""
    student = seeded(Student, seed)
    student.clip.visual.to(memory_format=torch.channels_last)
    captions = Captions()
    tokenizer = clip.SimpleTokenizer(context_length=77)
    labels, kinds = np.asarray(crops.crop_labels), np.asarray(crops.crop_kinds)
    side = clip.model_config("mini-clip")["vision_cfg"]["image_size"]

    draw = Draw(crops)
    kept: list[Tensor] = []
    first = int(FIRST * steps)

    def local(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = draw(rng, WINDOWS, EACH, EACH)
        whole = np.exp(rng.uniform(*np.log(WHOLE), WINDOWS))
        views = [window(rng, crops, int(i), WINDOW, float(size)) for i, size in zip(chosen, whole, strict=True)]
        pixels, coverage = tensors(views, MEAN, STD)
        student.look(pixels)
        places = student.places(coverage)
        return places, {"places": float(places.detach())}

    def step(rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        if number < first:
            return local(rng)
        chosen = draw(rng, BATCH, EACH, EACH)
        views = [view(rng, crops, int(i), side, 0.5 * (steps - number) / (steps - first)) for i in chosen]
        pixels, coverage = tensors(views, MEAN, STD)
        wrong = ((coverage > 0.25).sum((1, 2)) >= 3).float()
        sure = torch.tensor([float(labels[i] in (0, EMPTY)) for i in chosen]) + wrong
        # The texts settle long before the images do: most steps reuse those of the last step that learned them.
        fresh = number < first + SETTLED or number % 5 == 0 or not kept
        if fresh:
            groups = [
                captions.states(rng, NORMAL_STATES, 10),
                captions.states(rng, ANOMALOUS_STATES, 12),
                captions.neutral(rng, 5),
                captions.neutral(rng, 5),
                captions.kinds(rng),
            ]
            tokens = tokenizer([text for group in groups for text in group])
            tokens = tokens[:, : int(tokens.argmax(1).max()) + 1]
            parts = student.texts(tokens).split([len(group) for group in groups])
            kept[:] = [part.detach() for part in parts]
        normal, anomalous, vague, other, names = parts if fresh else kept
        images = student.images(pixels)
        scale = student.clip.logit_scale.exp().clamp(max=60)
        # The quantity that scores a tile, and the same for every single caption against the other side.
        margin = scale * images @ (anomalous.mean(0) - normal.mean(0))
        each_bad = scale * (images @ anomalous.T - (images @ normal.mean(0))[:, None])
        each_good = scale * ((images @ anomalous.mean(0))[:, None] - images @ normal.T)
        truth = wrong[:, None]
        # Some kinds look more damaged than others, but scores are only compared within a kind.
        whole = 0.5 * _bce(margin, wrong, sure) + _order(margin, wrong, kinds[chosen])
        single = _bce(torch.cat([each_bad, each_good], 1), truth.expand(-1, 22), sure[:, None])
        # Captions whose state means nothing must not tell sound from damaged: no difference in standard units.
        blank = torch.stack([vague.mean(0) - other.mean(0), vague[0] - other[0], vague[1] - other[1]])
        said = images @ blank.T
        gap = said[wrong > 0].mean(0) - said[wrong == 0].mean(0)
        neutral = (gap / (said.std(0) + 1e-4)).square().mean()
        language = _language(normal, anomalous, torch.cat([vague, other]), names)
        own = torch.from_numpy(np.where(kinds[chosen] < TABLE, kinds[chosen].astype(np.int64), -1))
        kind = F.cross_entropy(10 * images @ names.T, own, ignore_index=-1, reduction="sum") / len(chosen)
        places = student.places(coverage)
        loss = whole + 0.3 * single + 0.1 * neutral + 0.3 * language + 0.3 * kind + places
        return loss, {
            "tile": float(whole.detach()),
            "auroc": _auroc(margin.detach(), wrong, kinds[chosen]),
            "neutral": float(neutral.detach()),
            "kind": float(kind.detach()),
            "language": float(language.detach()),
            "places": float(places.detach()),
        }

    minutes = train(Plan("clip", seed, steps, 2e-3, restart=FIRST), student, step, folder)
    return student.finished(), minutes


def _language(normal: Tensor, anomalous: Tensor, meaningless: Tensor, names: Tensor) -> Tensor:
    """The two sides lie apart (or untrained images would push them together), what means nothing lies half-way,
    names differ. All are unit text embeddings (P, D)."""
    side_way = anomalous.mean(0) - normal.mean(0)
    centre = 0.5 * (anomalous.mean(0) + normal.mean(0)) @ side_way
    placed = torch.cat([anomalous, normal]) @ side_way - centre
    target = torch.cat([torch.ones(len(anomalous)), torch.zeros(len(normal))])
    middle = ((meaningless @ side_way - centre) / side_way.square().sum().clamp(min=0.2)).square()
    alike = F.relu(names @ names.T - torch.eye(len(names)) - 0.3).square()
    return (
        F.binary_cross_entropy_with_logits(8 * placed, target)
        + 2 * F.relu(1.2 - side_way.norm()).square()
        + 2 * middle.mean()
        + 3 * alike.mean()
    )


def _bce(logits: Tensor, truth: Tensor, sure: Tensor) -> Tensor:
    loss = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    return (loss * sure).sum() / (sure.expand_as(loss)).sum()


def _pairs(scores: Tensor, truth: Tensor, kinds: NDArray[np.uint16]) -> Tensor:
    """Score of the faulty minus score of the sound, of every such pair of one kind."""
    kind = torch.from_numpy(kinds.astype(np.int64))
    paired = (kind[:, None] == kind[None]) & (truth[:, None] > truth[None])
    return (scores[:, None] - scores[None])[paired]


def _order(scores: Tensor, truth: Tensor, kinds: NDArray[np.uint16]) -> Tensor:
    return F.softplus(-_pairs(scores, truth, kinds)).mean() if truth.any() else scores.sum() * 0


def _auroc(scores: Tensor, truth: Tensor, kinds: NDArray[np.uint16]) -> float:
    """Within kinds."""
    pairs = _pairs(scores, truth, kinds)
    return float((pairs > 0).float().mean()) if len(pairs) else float("nan")
