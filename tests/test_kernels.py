"""Compiled loops against NumPy."""

import numpy as np
import pytest

from zsad.kernels import peak_and_mean, to_float16


def test_every_float16_and_what_lies_between_two_of_them_is_rounded_as_numpy_does():
    halves = np.arange(0x3C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate([halves, middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(1))])
    random = np.random.default_rng(0).integers(0, 0x3F800001, 1_000_000, np.uint32).view(np.float32)
    for given in (values, random, random.reshape(1000, 1000).T):
        assert np.array_equal(to_float16(given).view(np.uint16), given.astype(np.float16).view(np.uint16))
        assert to_float16(given).dtype == np.float16 and to_float16(given).shape == given.shape


@pytest.mark.parametrize("other", [-0.0, -0.5, 1.0000001, 7e4, np.inf, -np.inf, np.nan])
@pytest.mark.filterwarnings("ignore:overflow")
def test_values_outside_0_to_1_are_numpys_too(other):
    given = np.linspace(0, 1, 100, dtype=np.float32)
    given[50] = other
    assert np.array_equal(to_float16(given).view(np.uint16), given.astype(np.float16).view(np.uint16))


def test_peak_and_mean_are_numpys_to_the_last_bit():
    rng = np.random.default_rng(0)
    every = np.arange(0x3C01, dtype=np.uint16).view(np.float16)
    for given in (
        every,
        every[:1],
        rng.random((300, 400)).astype(np.float16),
        (rng.random((7, 9)) / 1e5).astype("f2").T,
    ):
        assert peak_and_mean(given) == (float(given.max()), float(given.mean(dtype=np.float64)))


@pytest.mark.parametrize("other", [-0.5, 2.0, np.inf, np.nan])
def test_peak_and_mean_outside_0_to_1(other):
    given = np.array([0.25, other, 0.5], np.float16)
    np.testing.assert_equal(peak_and_mean(given), (float(given.max()), float(given.mean(dtype=np.float64))))
