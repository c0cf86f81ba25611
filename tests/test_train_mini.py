"""What the training of the mini models rests on: kinds at random, batches that compare within a kind, rates."""

import numpy as np
import pytest

from tools.train_mini.data import CROP, EMPTY, TABLE, Crops, Draw, view, window
from tools.train_mini.loop import _shape, place
from tools.train_mini.random_kinds import random_kind
from tools.train_mini.words import ANOMALOUS_STATES, HELD_OUT_ANOMALOUS, HELD_OUT_NORMAL, NORMAL_STATES
from zsad.datasets.synthetic import DEFECTS
from zsad.datasets.synthetic.rendering import render_kind, render_twins


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


def test_twins_differ_by_the_defect_alone():
    changed = []
    for number in range(8):
        faulty, sound = render_twins(random_kind(number), np.random.default_rng([number, 5]), long_side=240)
        alone = render_kind(random_kind(number), np.random.default_rng([number, 5]), True, long_side=240)
        assert faulty.jpeg == alone.jpeg
        assert faulty.mask.any()
        assert not sound.mask.any()
        assert sound.defects == ()
        difference = np.abs(faulty.image.astype(int) - sound.image).max(2)
        assert difference[faulty.mask > 0].mean() > 4 * difference[faulty.mask == 0].mean()
        changed.append(np.median(difference[faulty.mask == 0]))
    # What lies far from a defect is the same but for the JPEG.
    assert np.median(changed) <= 1


def test_batches_of_twins_hold_a_crop_and_the_same_without_its_defect():
    kinds = np.array([0, 0, 0, 0, TABLE, TABLE + 1, TABLE + 1], np.uint16)
    labels = np.array([3, 0, 4, 0, EMPTY, 6, 0], np.uint8)
    nothing = np.zeros((7, 1, 1), np.uint8)
    batch = Draw(Crops(nothing, nothing, labels, kinds), share=0.5)(np.random.default_rng(0), 64, 2)
    faulty, sound = batch[::2], batch[1::2]
    assert (labels[faulty] > 0).all()
    assert labels[sound[0]] == labels[sound[16]] == EMPTY
    others = np.r_[1:16, 17:32]
    assert (sound[others] == faulty[others] + 1).all()
    assert (kinds[faulty[::2]] == kinds[faulty[1::2]]).all()


def test_twins_are_seen_at_the_same_place_in_the_same_colours():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (CROP, CROP, 3), np.uint8)
    fault = np.zeros((CROP, CROP), np.uint8)
    fault[40:60, 200:240] = 255
    pair = Crops(np.stack([image, image]), np.stack([fault, 0 * fault]), np.array([1, 0]), np.array([0, 0]))
    for seed in range(5):
        faulty, sound = (window(np.random.default_rng(seed), pair, i, 64, 200.0, like=0) for i in range(2))
        assert np.array_equal(faulty[0], sound[0])
        assert not sound[1].any()
        faulty, sound = (view(np.random.default_rng(seed), pair, i, 128, 1.0, like=0) for i in range(2))
        assert np.array_equal(faulty[0], sound[0])
        assert faulty[1].any()


def test_the_rate_rises_and_falls_in_every_part():
    rates = [_shape(place(step, (300, 700))[1]) for step in range(1000)]
    assert np.argmax(rates[:300]) in (11, 12)
    assert rates[299] < 0.02 < 0.9 < rates[330]
    assert rates[-1] < 0.02
    assert place(299, (300, 700))[0] == 0
    assert place(300, (300, 700)) == (1, 0.0)
    with pytest.raises(ValueError, match="one of 1000"):
        place(1000, (300, 700))


def test_held_out_states_are_in_no_caption():
    assert not set(HELD_OUT_NORMAL) & set(NORMAL_STATES)
    assert not set(HELD_OUT_ANOMALOUS) & set(ANOMALOUS_STATES)
