import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zsad.method.aggregation import component_scores, sample_score, scale_tile_maps
from zsad.method.pixel_level import average_prompts
from zsad.method.tile_level import pool_prompts, score_tiles


def unit(rng, *shape):
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_mean_similarity_equals_the_mean_over_prompts_of_the_cosine():
    rng = np.random.default_rng(0)
    images, prompts = unit(rng, 5, 64), unit(rng, 418, 64)
    expected = (images @ prompts.T).mean(axis=1)
    np.testing.assert_allclose(images @ pool_prompts(prompts, "mean_similarity"), expected, atol=1e-7)


def test_mean_embedding_is_renormalised_and_gives_other_scores():
    rng = np.random.default_rng(1)
    prompts = unit(rng, 30, 16)
    pooled = pool_prompts(prompts, "mean_embedding")
    assert np.linalg.norm(pooled) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(pool_prompts(prompts, "mean_similarity")) < 0.5


def test_score_is_the_softmax_over_the_two_similarities():
    rng = np.random.default_rng(2)
    images, normal, anomalous = unit(rng, 7, 16), unit(rng, 16) * 0.3, unit(rng, 16) * 0.2
    logits = torch.from_numpy(np.stack([images @ normal, images @ anomalous], axis=1)) * 100
    np.testing.assert_allclose(
        score_tiles(images, normal, anomalous, 100.0), torch.softmax(logits, dim=1)[:, 1], atol=1e-5
    )


@given(st.integers(0, 10_000), st.floats(0.5, 20))
def test_harmonic_closed_form_equals_the_definition(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, 5, 3, 3), generator=generator, dtype=torch.float64) * spread
    weights = [1.0, 2.0, 1.0, 3.0, 1.0]
    probabilities = torch.sigmoid(logits)
    weight = torch.tensor(weights, dtype=torch.float64).view(1, -1, 1, 1)
    definition = weight.sum() / (weight / probabilities).sum(dim=1)
    torch.testing.assert_close(average_prompts(logits, weights), definition, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("tiles", [0, 1, 3])
def test_harmonic_mean_is_exact_to_float32_rounding_and_leaves_the_logits(tiles):
    logits = torch.randn((tiles, 18, 7, 9), generator=torch.Generator().manual_seed(0)) * 20
    if tiles:
        logits[0, :, 0, 0], logits[0, 3, 1, 1], logits[0, 3, 1, 2] = torch.inf, torch.inf, -torch.inf
        logits[0, :, 0, 1] = -torch.inf
    before = logits.clone()
    weights = torch.rand(18, generator=torch.Generator().manual_seed(1)).add(0.5).tolist()
    weight = torch.tensor(weights, dtype=torch.float64).view(1, -1, 1, 1)
    expected = torch.sigmoid(weight.sum().log() - torch.logsumexp(weight.log() - logits.double(), dim=1))
    # The exponents reach 100, in steps of 8e-6; below the normal numbers there are no such digits.
    torch.testing.assert_close(average_prompts(logits, weights).double(), expected, rtol=3e-6, atol=2e-38)
    assert torch.equal(logits, before)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(average_prompts(logits, weights), average_prompts(before, weights))
        assert average_prompts(logits, weights).dtype == torch.float32


def test_harmonic_mean_of_equal_maps_is_the_map_and_extremes_stay_finite():
    logits = torch.tensor([-200.0, -5.0, 0.0, 5.0, 200.0]).view(1, 1, 1, 5).expand(1, 19, 1, 5)
    mean = average_prompts(logits, [1.0] * 19)
    torch.testing.assert_close(mean, torch.sigmoid(logits[:, 0]), atol=1e-6, rtol=1e-5)
    assert torch.isfinite(mean).all()


def test_other_averages():
    logits = torch.tensor([-1.0, 3.0]).view(1, 2, 1, 1)
    p = torch.sigmoid(logits).flatten().tolist()
    assert average_prompts(logits, [1.0, 2.0], "arithmetic").item() == pytest.approx((p[0] + 2 * p[1]) / 3)
    assert average_prompts(logits, [1.0, 2.0], "max").item() == pytest.approx(p[1])
    assert average_prompts(logits, [1.0, 1.0]).item() < average_prompts(logits, [1.0, 1.0], "arithmetic").item()


def test_tile_scaling():
    maps = np.ones((2, 3, 3), np.float32)
    scores = np.array([0.25, 0.5], np.float32)
    np.testing.assert_array_equal(scale_tile_maps(maps, scores)[:, 0, 0], scores)
    np.testing.assert_array_equal(scale_tile_maps(maps, scores, tile_scaling=False), maps)


def test_component_scores_are_means_over_their_tiles():
    scores = component_scores(np.array([0.2, 0.4, 0.9], np.float32), np.array([0, 0, 1]))
    np.testing.assert_allclose(scores, [0.3, 0.9], atol=1e-7)


@pytest.mark.parametrize(
    ("scores", "fraction", "expected"),
    [
        ([0.1], 0.25, 0.1),
        ([0.1, 0.5, 0.3, 0.2], 0.25, 0.5),
        ([0.1, 0.5, 0.3, 0.2, 0.4], 0.25, 0.45),
        ([0.1, 0.5, 0.3], 0.0, 0.5),
        ([0.1, 0.5, 0.3], 1.0, 0.3),
        ([0.0] * 7 + [0.9, 0.6, 0.3], 0.3, 0.6),
    ],
)
def test_sample_score_is_the_mean_of_the_top_share(scores, fraction, expected):
    assert sample_score(np.array(scores, np.float32), fraction) == pytest.approx(expected, abs=1e-6)


@given(arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 1, width=32)), st.floats(0, 1))
def test_sample_score_lies_between_mean_and_maximum(scores, fraction):
    score = sample_score(scores, fraction)
    assert scores.astype(np.float64).mean() - 1e-9 <= score <= scores.max() + 1e-9
    assert not math.isnan(score)
