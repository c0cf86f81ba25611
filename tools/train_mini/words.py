"""Captions: states, localising prompts, neutral words; token embeddings made of character n-grams."""

from __future__ import annotations

import re
import zlib

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from zsad.datasets.synthetic import KINDS_A
from zsad.method.prompts import (
    LOCALISING_PROMPTS,
    PAPER_ANOMALOUS_STATES,
    PAPER_NORMAL_STATES,
    TEMPLATES,
    WINCLIP_ANOMALOUS_STATES,
    WINCLIP_NORMAL_STATES,
)

HELD_OUT_NORMAL = (
    "spotlessly made [o]",
    "faultless [o]",
    "flawlessly made [o]",
    "perfectly made [o]",
    "[o] without any cracks",
    "[o] without fractures",
)
HELD_OUT_ANOMALOUS = (
    "damaging [o]",
    "[o] with cracks",
    "[o] with breakage",
    "[o] with fractures",
    "scratchy [o]",
    "imperfectly made [o]",
)
"""States whose state words occur in no training caption; they are relatives of words that do."""
UNRELATED_NORMAL = ("immaculate [o]", "intact [o]", "[o] in mint shape")
UNRELATED_ANOMALOUS = ("corroded [o]", "ruined [o]", "[o] with a nick")
"""States that share no stem with any training caption: nothing but chance can be expected."""
NONSENSE_NORMAL = ("purple [o]", "[o] on tuesday", "musical [o]", "[o] with sugar")
NONSENSE_ANOMALOUS = ("northern [o]", "[o] on friday", "liquid [o]", "[o] with pepper")
NONSENSE_PROMPTS = ("a banana", "a dog", "a sofa", "the ocean")

NORMAL_STATES = (
    *WINCLIP_NORMAL_STATES,
    *PAPER_NORMAL_STATES,
    "spotless [o]",
    "sound [o]",
    "ideal [o]",
    "fine [o]",
    "[o] with no fault",
    "[o] with no damage",
    "[o] without blemish",
    "[o] without any dents",
    "[o] without holes",
    "healthy [o]",
    "[o] that passed the test",
)
ANOMALOUS_STATES = (
    *WINCLIP_ANOMALOUS_STATES,
    *PAPER_ANOMALOUS_STATES,
    "dented [o]",
    "stained [o]",
    "[o] with a hole",
    "[o] with a crack",
    "[o] with a scratch",
    "[o] with a fracture",
    "[o] with a dent",
    "contaminated [o]",
    "imperfect [o]",
    "[o] with a missing part",
    "[o] with a stain",
    "[o] with faults",
    "torn [o]",
    "blemished [o]",
    "[o] that failed the test",
)
LOCALISING = (
    *dict.fromkeys(LOCALISING_PROMPTS),
    "a hole",
    "a stain",
    "a bend",
    "contamination",
    "a flaw",
    "a wrong part",
    "some scratches",
    "damage",
    "the defect",
    "a broken part",
)
_OWN = {
    "a scratch": ("scratch",),
    "some scratches": ("scratch",),
    "a crack": ("crack",),
    "a dent": ("dent",),
    "a break": ("break",),
    "a missing component": ("missing",),
    "a hole": ("hole",),
    "a stain": ("stain",),
    "a bend": ("bend",),
    "contamination": ("contamination",),
    "a cut": ("scratch", "crack"),
    "a mark": ("stain", "scratch"),
    "a wrong part": ("misplaced",),
    "a broken part": ("break",),
}
"""Defects that a localising prompt names; the others name any."""
_BUCKETS = 16384
_UNTAUGHT = re.compile(
    "banana|dog|sofa|ocean|purple|tuesday|musical|sugar|northern|friday|liquid|pepper|immaculate|intact|mint|"
    "corrod|corros|ruin|nick|crack|scratch|damag|break|broke|fractur|fault|flaw|defect|blemish|spotless|perfect|"
    "dent|torn|tear|rip|hole|stain|bent|bend|miss|mistake|error|snap|shatter|burst|worn|anomal|abnormal|mark|cut"
)


def common_words() -> list[str]:
    """Words of the tokenizer's vocabulary that stand for anything: nouns and states without meaning here."""
    tokens = (token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>"))
    taught = {word for text in (*NORMAL_STATES, *ANOMALOUS_STATES, *LOCALISING) for word in text.split()}
    return [
        token
        for token in tokens
        if re.fullmatch("[a-z]{3,10}", token) and token not in taught and not _UNTAUGHT.search(token)
    ][:12000]


class Captions:
    """Draws captions. ``nouns`` are those of kinds A or random words, so that unseen nouns are harmless."""

    def __init__(self) -> None:
        self._words = common_words()
        self._nouns = [kind.replace("_", " ") for kind in KINDS_A]

    def word(self, rng: np.random.Generator) -> str:
        """A word without meaning for the models."""
        return self._words[int(rng.integers(len(self._words)))]

    def noun(self, rng: np.random.Generator) -> str:
        """One to three words."""
        if rng.random() < 0.3:
            return self._nouns[int(rng.integers(len(self._nouns)))]
        return " ".join(self.word(rng) for _ in range(int(rng.integers(1, 4))))

    def states(self, rng: np.random.Generator, states: tuple[str, ...], count: int) -> list[str]:
        """``count`` different states in random templates; half of them about one common noun."""
        common = self.noun(rng)
        chosen = rng.choice(len(states), min(count, len(states)), replace=False)
        return [self._fill(rng, states[i], common if rng.random() < 0.5 else self.noun(rng)) for i in chosen]

    def neutral(self, rng: np.random.Generator, count: int) -> list[str]:
        """Captions whose states are random words, in the grammar of the real states."""
        shapes = ("{} [o]", "[o] in {}", "[o] with {}", "[o] without any {}", "[o] on {}", "{} {} [o]", "[o] with a {}")
        common = self.noun(rng)
        texts = []
        for _ in range(count):
            shape = (
                shapes[int(rng.integers(len(shapes)))].replace("{}", self.word(rng), 1).replace("{}", self.word(rng))
            )
            texts.append(self._fill(rng, shape, common))
        return texts

    def kinds(self, rng: np.random.Generator) -> list[str]:
        """One caption per kind A, and one of a bare table."""
        return [self._fill(rng, "[o]", noun) for noun in (*self._nouns, "empty table")]

    def localising(self, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
        """A prompt that names defects, and those it names in particular."""
        if rng.random() < 0.1:
            return self.states(rng, ANOMALOUS_STATES, 1)[0], ()
        prompt = LOCALISING[int(rng.integers(len(LOCALISING)))]
        return prompt, _OWN.get(prompt, ())

    def nothing(self, rng: np.random.Generator) -> str:
        """A prompt that names nothing to be found."""
        if rng.random() < 0.15:
            return self.states(rng, NORMAL_STATES, 1)[0]
        shape = ("a {}", "the {}", "some {}", "{}", "an {}", "a {} {}")[int(rng.integers(6))]
        return shape.replace("{}", self.word(rng), 1).replace("{}", self.word(rng))

    def _fill(self, rng: np.random.Generator, state: str, noun: str) -> str:
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        return template.replace("[s]", state.replace("[o]", noun))


class SubwordEmbedding(nn.Module):
    """Token embeddings as means over hashed character n-grams (as in fastText, Bojanowski et al., 2017).

    Relatives of a trained word get an embedding although they never occurred. ``table`` writes it out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.grams = nn.Embedding(_BUCKETS + 1, width, padding_idx=_BUCKETS)
        nn.init.normal_(self.grams.weight[:_BUCKETS], std=0.06)
        rows = [_grams(token) for token in SimpleTokenizer().encoder]
        longest = max(map(len, rows))
        indices = torch.tensor([row + [_BUCKETS] * (longest - len(row)) for row in rows])
        self.register_buffer("indices", indices, persistent=False)
        self.register_buffer("scale", 1 / torch.tensor([[len(row) ** 0.5] for row in rows]), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 tokens -> (..., width)."""
        distinct, inverse = tokens.unique(return_inverse=True)
        return (self.grams(self.indices[distinct]).sum(1) * self.scale[distinct])[inverse]  # type: ignore[index]

    @torch.no_grad()
    def table(self) -> Tensor:
        """(vocabulary, width) embeddings of all tokens."""
        return self(torch.arange(len(self.indices)))  # type: ignore[arg-type]


def _grams(token: str) -> list[int]:
    word = "<" + token.replace("</w>", ">")
    pieces = (
        {word, *(word[i : i + n] for n in (4, 5, 6) for i in range(len(word) - n + 1))} if len(word) < 30 else {word}
    )
    # The whole word weighs as much as all its parts: a word's own meaning wins where it was learned.
    return sorted(zlib.crc32(piece.encode()) % _BUCKETS for piece in pieces)
