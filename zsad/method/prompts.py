"""Prompt generator (paper section 2 and Fig. 2; templates and base states of WinCLIP, Jeong et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from zsad.config import PromptsConfig

WINCLIP_NORMAL_STATES = (
    "[o]",
    "flawless [o]",
    "perfect [o]",
    "unblemished [o]",
    "[o] without flaw",
    "[o] without defect",
    "[o] without damage",
)
WINCLIP_ANOMALOUS_STATES = ("damaged [o]", "[o] with flaw", "[o] with defect", "[o] with damage")

PAPER_NORMAL_STATES = (
    "good [o]",
    "normal [o]",
    "amazing [o]",
    "pristine [o]",
    "undamaged [o]",
    "[o] in good condition",
    "unbroken [o]",
    "[o] without any imperfections",
    "[o] without any scratches",
    "[o] without any marks",
    "complete [o]",
    "new [o]",
)
PAPER_ANOMALOUS_STATES = (
    "broken [o]",
    "bad [o]",
    "flawed [o]",
    "defective [o]",
    "[o] in poor condition",
    "worn [o]",
    "[o] with scratches",
    "[o] with marks",
    "[o] with imperfections",
    "cracked [o]",
    "faulty [o]",
    "incomplete [o]",
    "bent [o]",
    "snapped [o]",
    "scratched [o]",
    "shattered [o]",
    "fractured [o]",
    "burst [o]",
    "[o] in pieces",
)
LOCALISING_PROMPTS = (
    "a tear",
    "a rip",
    "some damage",
    "a fault",
    "a break",
    "an abnormality",
    "a defect",
    "a crack",
    "an anomaly",
    "a missing component",
    "an error",
    "a mark",
    "a cut",
    "a dent",
    "a scratch",
    "an imperfection",
    "a blemish",
    "a mistake",
    "an error",
)

TEMPLATES = (
    *(
        f"a {look} photo of {article} [s]."
        for look in ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")
        for article in ("a", "the")
    ),
    *(f"a photo of {article} {size}[s]." for size in ("", "small ", "large ") for article in ("a", "the")),
    *(
        f"a photo of {article} [s] for {purpose}."
        for purpose in ("visual inspection", "anomaly detection")
        for article in ("a", "the")
    ),
)
"""The 22 templates; ``[s]`` is replaced by a state."""


def sample_prompts(noun: str, config: PromptsConfig) -> tuple[list[str], list[str]]:
    """Normal and anomalous sample-level prompts for an object: every state in every template.

    Args:
        noun: name of the object, put where a state says ``[o]``; e.g. ``printed circuit board``.

    Returns:
        (normal, anomalous): 418 and 506 prompts with the default states, none twice.
    """
    extended = config.states == "extended"
    normal = config.normal_states or WINCLIP_NORMAL_STATES + PAPER_NORMAL_STATES * extended
    anomalous = config.anomalous_states or WINCLIP_ANOMALOUS_STATES + PAPER_ANOMALOUS_STATES * extended
    return _compose(noun, normal), _compose(noun, anomalous)


def localising_prompts(config: PromptsConfig) -> tuple[list[str], list[float]]:
    """Distinct localising prompts and their weights in the average.

    The paper's list holds "an error" twice; each distinct prompt is computed once and weighs as often
    as it stands there (``prompts.duplicates = weight``) or once (``drop``).
    """
    listed = config.localising or LOCALISING_PROMPTS
    distinct = list(dict.fromkeys(listed))
    return distinct, [float(listed.count(p)) if config.duplicates == "weight" else 1.0 for p in distinct]


def _compose(noun: str, states: Sequence[str]) -> list[str]:
    return [template.replace("[s]", state.replace("[o]", noun)) for state in states for template in TEMPLATES]
