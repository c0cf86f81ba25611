"""What the training of the mini models rests on: kinds at random, batches that compare within a kind, rates."""

import numpy as np
import pytest

from tools.train_mini.data import CROP, EMPTY, TABLE, Crops, Draw, _crops
from tools.train_mini.loop import _shape
from tools.train_mini.random_kinds import random_kind
from tools.train_mini.words import ANOMALOUS_STATES, HELD_OUT_ANOMALOUS, HELD_OUT_NORMAL, NORMAL_STATES
from zsad.datasets.synthetic import DEFECTS
from zsad.datasets.synthetic.rendering import render_kind


def picture(number: int, seed: int, anomalous: bool):
    return render_kind(random_kind(number), np.random.default_rng([number, seed]), anomalous, long_side=240)


@pytest.mark.parametrize("number", range(12))
def test_random_kinds_draw_sound_and_faulty_parts(number):
    sound, again, faulty = picture(number, 0, False), picture(number, 0, False), picture(number, 1, True)
    assert np.array_equal(sound.image, again.image)
    assert not sound.mask.any()
    assert faulty.mask.any()
    assert set(faulty.defects) <= set(DEFECTS)
    assert sound.foreground.mean() > 0.01
    assert sound.image[sound.foreground].std() > 1


def test_no_two_random_kinds_are_alike():
    pictures = [picture(number, 0, False).image.tobytes() for number in range(12)]
    assert len(set(pictures)) == 12


def test_batches_hold_as_many_faulty_as_sound_crops_of_a_kind():
    kinds = np.array([0, 0, 0, 1, 1, TABLE, TABLE + 1, TABLE + 1, TABLE + 1, TABLE + 2], np.uint16)
    labels = np.array([0, 3, 4, 0, 0, EMPTY, 0, 0, 5, 6], np.uint8)
    nothing = np.zeros((10, 1, 1), np.uint8)
    batch = Draw(Crops(nothing, nothing, labels, kinds), share=0.5)(np.random.default_rng(0), 64, 2, 2)
    assert len(batch) == 64
    assert labels[batch[0]] == labels[batch[32]] == EMPTY
    for start in range(4, 32, 4):
        four = batch[start : start + 4]
        assert len(set(kinds[four])) == 1
        assert (labels[four] > 0).tolist() == [False, False, True, True]
    # Kinds without a sound or without a faulty crop cannot be compared.
    assert set(kinds[batch]) == {0, TABLE, TABLE + 1}


def test_the_rate_rises_and_falls_and_starts_again_where_asked():
    once = [_shape(step / 1000, 1.0) for step in range(1000)]
    assert np.argmax(once) in (39, 40)
    assert once[-1] < 0.02
    twice = [_shape(step / 1000, 0.5) for step in range(1000)]
    assert twice[499] < 0.02 < 0.9 < twice[525]
    assert twice[-1] < 0.02


def test_held_out_states_are_in_no_caption():
    assert not set(HELD_OUT_NORMAL) & set(NORMAL_STATES)
    assert not set(HELD_OUT_ANOMALOUS) & set(ANOMALOUS_STATES)


def test_crops_reach_beyond_the_picture():
    """A small part in a corner: the margin around its tile is padding."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (700, 900, 3), np.uint8)
    mask = np.zeros((700, 900), np.uint8)
    mask[:40, :30] = 1
    found = _crops(rng, image, mask, np.array([[0, 0, 120, 100, 12000]], np.int32), 3, 2)
    assert found["crops"].shape[1:] == (CROP, CROP, 3) and found["crops"].std() > 10
    assert found["crop_labels"].tolist() == [1] * len(found["crops"]) and len(found["crops"])
    assert found["crop_faults"][0].max() > 0
