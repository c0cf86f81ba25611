import pytest

from zsad.config import PromptsConfig
from zsad.method.prompts import LOCALISING_PROMPTS, TEMPLATES, localising_prompts, sample_prompts


def test_default_ensemble_has_418_normal_and_506_anomalous_prompts_none_twice():
    normal, anomalous = sample_prompts("capsule", PromptsConfig())
    assert (len(normal), len(anomalous)) == (418, 506)
    assert len(set(normal + anomalous)) == 924
    assert len(set(TEMPLATES)) == 22


def test_winclip_states_alone():
    normal, anomalous = sample_prompts("capsule", PromptsConfig(states="winclip"))
    assert (len(normal), len(anomalous)) == (7 * 22, 4 * 22)


@pytest.mark.parametrize(
    "prompt",
    [
        "a cropped photo of the flawless printed circuit board.",
        "a photo of a small printed circuit board with scratches.",
        "a jpeg corrupted photo of a damaged printed circuit board.",
        "a photo of the printed circuit board in pieces for anomaly detection.",
        "a close-up photo of a printed circuit board.",
        "a photo of the large printed circuit board without any marks.",
    ],
)
def test_wording(prompt):
    normal, anomalous = sample_prompts("printed circuit board", PromptsConfig())
    assert prompt in normal + anomalous


def test_noun_may_look_like_a_placeholder():
    normal, _ = sample_prompts("[s]", PromptsConfig(normal_states=("good [o]",)))
    assert normal[0] == "a cropped photo of a good [s]."


def test_localising_prompts_are_distinct_and_the_double_one_weighs_double():
    assert len(LOCALISING_PROMPTS) == 19
    prompts, weights = localising_prompts(PromptsConfig())
    assert len(prompts) == len(set(prompts)) == 18
    assert dict(zip(prompts, weights, strict=True))["an error"] == 2.0
    assert sum(weights) == 19
    assert localising_prompts(PromptsConfig(duplicates="drop"))[1] == [1.0] * 18


def test_custom_localising_prompts():
    assert localising_prompts(PromptsConfig(localising=("a hole", "a hole", "rust"))) == (
        ["a hole", "rust"],
        [2.0, 1.0],
    )
