"""Good images beside bad ones keep the scores that they have alone, bit for bit."""

import numpy as np

from tests.bad_images.builders import encode, turned
from tests.bad_images.corpus import CASES, PICTURE
from tests.pipeline.conftest import draw

NOUN = "disc"
BATCH = 8


def same(one, other):
    assert one.failure is None and other.failure is None
    assert one.score == other.score
    np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
    np.testing.assert_array_equal(one.foreground, other.foreground)
    assert one.tiles == other.tiles
    np.testing.assert_array_equal(one.tile_scores, other.tile_scores)


def paths_of_bad_files(corpus):
    return [corpus / case.name for case in CASES if case.kind is not None]


def test_one_good_image_in_every_batch_of_bad_ones(corpus, detector):
    good = draw(np.random.default_rng(3), 60, 80, parts=3)
    alone = detector.score_batch([good], NOUN)[0]
    bad = paths_of_bad_files(corpus)
    step = BATCH - 1
    for index, start in enumerate(range(0, len(bad), step)):
        group = bad[start : start + step]
        place = index % (len(group) + 1)
        mixed = detector.score_batch([*group[:place], good, *group[place:]], NOUN)
        same(mixed.pop(place), alone)
        assert len(mixed) == len(group)
        assert all(result.failure is not None and np.isnan(result.score) for result in mixed)


def test_two_good_images_among_bad_ones(corpus, detector):
    rng = np.random.default_rng(4)
    good = [draw(rng, 60, 70, parts=3), draw(rng, 80, 70, parts=2)]
    bad = paths_of_bad_files(corpus)[:5]
    mixed = detector.score_batch([bad[0], good[0], bad[1], bad[2], good[1], bad[3], bad[4]], NOUN)
    for one, other in zip((mixed[1], mixed[4]), detector.score_batch(good, NOUN), strict=True):
        same(one, other)


def test_a_turned_photograph_has_the_score_of_the_upright_one(detector):
    # That all eight orientations give the same pixels is a matter of test_corpus.py.
    same(detector.score(turned(PICTURE, 6), NOUN), detector.score(encode(PICTURE), NOUN))
