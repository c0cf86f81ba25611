import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad.errors import ZsadError
from zsad.projection import project
from zsad.storage import decode_map, encode_map
from zsad.storage.codec import _decode, _encode

GOLDEN = "ca3ef6f38a82b87d71343f899dbbad3f2c921bd9f84d8054992bc9b7583abbcd"
GOLDEN_SCRIPT = """
import hashlib
import numpy as np
from zsad.storage import decode_map, encode_map
y, x = np.mgrid[0:48, 0:48]
tiles = np.stack([((x * 37 + y * 91 + t * 53) % 1021 / 1024).astype(np.float16) for t in range(3)])
boxes = np.array([[0, 0, 131, 131], [90, 20, 221, 151], [-10, 60, 121, 191]])
foreground = (np.add.outer(np.arange(170), np.arange(200)) % 7) > 0
digest = hashlib.sha256()
for mask in (None, foreground):
    codec, data = encode_map(tiles, np.zeros((170, 200), np.float16))
    assert codec == "tile-maps/1"
    digest.update(decode_map(codec, data, boxes, 170, 200, mask).astype("<f2").tobytes())
print(digest.hexdigest())
"""


def bits(array):
    return array.view(np.uint16)


def test_every_float16_bit_pattern_survives():
    patterns = np.arange(65536, dtype=np.uint16)
    for values in (patterns, np.random.default_rng(0).permutation(patterns)):
        arrays = values.view(np.float16).reshape(4, 128, 128)
        decoded = _decode(_encode(arrays))
        assert decoded.dtype == np.float16
        np.testing.assert_array_equal(bits(decoded), bits(arrays))


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)), st.integers(0, 2**32 - 1))
def test_any_shape_survives(shape, seed):
    arrays = np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(bits(_decode(_encode(arrays))), bits(arrays))


def test_non_contiguous_input_is_the_same_data():
    arrays = np.random.default_rng(1).random((2, 20, 20)).astype(np.float16)
    assert _encode(arrays[:, ::2, ::2]) == _encode(arrays[:, ::2, ::2].copy())


@pytest.mark.parametrize(("height", "width", "codec"), [(60, 80, "tile-maps/1"), (20, 20, "map/1"), (16, 32, "map/1")])
@pytest.mark.parametrize("masked", [False, True])
def test_fewer_pixels_are_stored_and_decode_to_the_projection(rows, height, width, codec, masked):
    tiles = rows.tiles(2, 16)
    boxes = np.array([[-3, 0, 17, 20], [2, 1, 20, 19]])
    foreground = np.random.default_rng(0).random((height, width)) < 0.5 if masked else None
    anomaly_map = project(tiles, boxes, height, width, foreground)
    chosen, data = encode_map(tiles, anomaly_map)
    assert chosen == codec
    np.testing.assert_array_equal(bits(decode_map(chosen, data, boxes, height, width, foreground)), bits(anomaly_map))


def test_no_tiles_decode_to_zeros():
    codec, data = encode_map(np.zeros((0, 16, 16), np.float16), np.zeros((5, 6), np.float16))
    assert not decode_map(codec, data, np.zeros((0, 4), int), 5, 6).any()


def test_only_float16_of_three_axes_is_encoded():
    with pytest.raises(ZsadError, match="float16 array of three axes, given float32"):
        _encode(np.zeros((1, 4, 4), np.float32))


def _with_header(count, rows, columns, payload):
    return struct.pack("<IIII", count, rows, columns, zlib.crc32(payload)) + payload


def test_damaged_data_is_refused(rows):
    tiles = rows.tiles(2, 16)
    codec, data = "tile-maps/1", _encode(tiles)
    boxes = np.array([[0, 0, 40, 40], [30, 0, 70, 40]])
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    payload = data[16:]
    for broken in (
        b"",
        data[:10],
        data[:-1],
        data + b"x",
        bytes(flipped),
        b"not a map at all, whatever it is",
        _with_header(2, 16, 17, payload),
        _with_header(2, 16, 15, payload),
        _with_header(2**31, 2**31, 2**31, payload),
        _with_header(2, 16, 16, b"no zstd frame"),
    ):
        with pytest.raises(ZsadError, match="Damaged map data"):
            decode_map(codec, broken, boxes, 60, 80)
    with pytest.raises(ZsadError, match="2 tile maps for 1 tile boxes"):
        decode_map(codec, data, boxes[:1], 60, 80)
    with pytest.raises(ZsadError, match="expected \\(1, 60, 80\\)"):
        decode_map("map/1", data, boxes, 60, 80)
    with pytest.raises(ZsadError, match="Unknown map codec 'tile-maps/9'"):
        decode_map("tile-maps/9", data, boxes, 60, 80)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"ATEN_CPU_CAPABILITY": "default"},
        {"NPY_DISABLE_CPU_FEATURES": "every one present", "OMP_NUM_THREADS": "1"},
    ],
)
def test_golden_bits_in_another_process(environment):
    if environment.get("NPY_DISABLE_CPU_FEATURES"):
        from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

        present = [name for name in __cpu_dispatch__ if __cpu_features__[name]]
        environment = environment | {"NPY_DISABLE_CPU_FEATURES": " ".join(present)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GOLDEN_SCRIPT],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == GOLDEN


def test_golden_bits_of_the_encoding():
    """What an earlier version wrote still decodes."""
    stored = bytes.fromhex(
        "020000000500000005000000e31ce41328b52ffd206405020022040c17c025ad01ffbfebff378e6f77eea6a7fcff9f62"
        "6fb2770ae349e005f3870c43004a39c5878906440b5eabeadb6edb1f0500400ae002ac85e292021803"
    )
    decoded = _decode(stored)
    expected = (np.arange(50).reshape(2, 5, 5) / 64).astype(np.float16)
    np.testing.assert_array_equal(decoded, expected)


def test_size_and_time_of_a_large_image(rows):
    """The bars are loose here (shared machines); the benchmark holds the tight ones."""
    tiles = rows.tiles(6, 352)
    boxes = np.array([[x, y, x + 500, y + 500] for y in (0, 500) for x in (0, 500, 1000)])
    anomaly_map = project(tiles, boxes, 1000, 1500)
    start = time.process_time()
    codec, data = encode_map(tiles, anomaly_map)
    encoded = time.process_time()
    decoded = decode_map(codec, data, boxes, 1000, 1500)
    finished = time.process_time()
    np.testing.assert_array_equal(bits(decoded), bits(anomaly_map))
    assert codec == "tile-maps/1"
    assert len(data) <= 0.6e6
    assert encoded - start <= 0.1
    assert finished - encoded <= 0.15
