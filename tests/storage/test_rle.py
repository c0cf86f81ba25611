import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from zsad.errors import ZsadError
from zsad.storage import decode_rle, encode_rle


def reference(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_equals_coco_both_ways(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    counts = encode_rle(mask)
    assert counts == reference(mask) == encode_rle(np.asfortranarray(mask)) == encode_rle(np.repeat(mask, 2, 1)[:, ::2])
    np.testing.assert_array_equal(decode_rle(counts, height, width), mask)


@pytest.mark.parametrize("value", [False, True])
def test_long_runs(value):
    mask = np.full((3000, 4000), value)
    mask[1500, 2000] ^= True
    counts = encode_rle(mask)
    assert counts == reference(mask)
    np.testing.assert_array_equal(decode_rle(counts, 3000, 4000), mask)


def test_decoding_agrees_with_coco_on_its_strings():
    mask = np.random.default_rng(0).random((33, 57)) < 0.3
    decoded = coco.decode({"size": [33, 57], "counts": encode_rle(mask).encode()})
    np.testing.assert_array_equal(decoded.astype(bool), mask)


@pytest.mark.parametrize("counts", ["", "o", "0", "99", "é", "!!", "PPPPPPPPPPPPPPPP0", "O5", "\x7f"])
def test_malformed_strings_are_refused(counts):
    with pytest.raises(ZsadError, match="height 4 and width 5"):
        decode_rle(counts, 4, 5)


def test_another_size_is_refused():
    with pytest.raises(ZsadError, match="height 4 and width 6"):
        decode_rle(encode_rle(np.ones((4, 5), bool)), 4, 6)
