"""Tiles go to the device in even batches of the target size or more."""

import pytest

from zsad.steps.isolation import DeviceBatches


@pytest.mark.parametrize("target", [1, 2, 32])
def test_no_batch_is_smaller_than_the_target_where_that_is_possible(target):
    for count in range(1, 5 * target + 2):
        sizes = DeviceBatches().run(count, target, lambda window: window.stop - window.start)
        assert sum(sizes) == count
        assert max(sizes) < 2 * target
        assert max(sizes) - min(sizes) <= len(sizes)
        if count >= target:
            assert sum(sizes) / len(sizes) >= target
        else:
            assert sizes == [count]


def test_nothing_gives_no_batch():
    assert DeviceBatches().run(0, 32, lambda window: window) == []
