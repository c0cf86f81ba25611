"""Every file of the corpus is decoded rightly or becomes one failure that says why."""

import numpy as np
import pytest

from tests.bad_images.corpus import CASES, LIMITS
from zsad.steps.item import ImageItem, load


def test_the_corpus_is_large_enough():
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.kind is not None for case in CASES) >= 40
    assert {case.kind for case in CASES if case.kind} == {
        "empty_file",
        "extreme_aspect",
        "file_too_large",
        "missing",
        "not_a_file",
        "not_an_image",
        "too_many_pixels",
        "truncated",
        "undecodable",
        "unreadable",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name)[1:-1][:60])
def test_the_right_pixels_or_one_failure(corpus, case):
    item = ImageItem(path=str(corpus / case.name), class_name="disc")
    load([item], LIMITS)
    if case.kind is not None:
        assert item.failure is not None, item.image.shape
        assert (item.failure.stage, item.failure.kind) == ("load", case.kind), item.failure
        assert item.failure.message.strip() and str(corpus) not in item.failure.message
        assert item.image is None or case.kind == "extreme_aspect"
        return
    assert item.failure is None, item.failure
    assert item.image.shape == case.pixels.shape and item.image.flags.c_contiguous and item.image.flags.writeable
    difference = np.abs(item.image.astype(int) - case.pixels.astype(int))
    assert difference.max() <= case.tolerance
