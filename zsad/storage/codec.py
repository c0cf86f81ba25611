"""Lossless coding of float16 maps: second difference, zig-zag, byte planes, zstd.

The anomaly map of an image is by definition ``zsad.projection.project`` of its float16 tile maps.
Stored is whichever has fewer pixels, the tile maps (``tile-maps/1``) or the map itself (``map/1``, for
overlapping strips and small images); both decode to the same bits.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zsad.errors import ZsadError
from zsad.projection import project

TILE_MAPS = "tile-maps/1"
MAP = "map/1"

Float16Array = NDArray[np.float16]

_HEADER = struct.Struct("<IIII")
"""Arrays, rows, columns, CRC-32 of the compressed bytes."""
_ZSTD_LEVEL = 1
_MAX_VALUES = 1 << 30
"""Refuses a damaged header before memory is taken for it; the pixel cap of images lies far below."""


def encode_map(tile_maps: Float16Array, anomaly_map: Float16Array) -> tuple[str, bytes]:
    """Codec and data of one image: its tile maps or its map, whichever has fewer pixels.

    Args:
        tile_maps: (T, S, S) float16.
        anomaly_map: (H, W) float16, what ``project`` gives for ``tile_maps``.

    Returns:
        ``codec`` and ``data`` as stored in ``anomaly_maps``.
    """
    if tile_maps.size < anomaly_map.size:
        return TILE_MAPS, _encode(tile_maps)
    return MAP, _encode(anomaly_map[None])


def decode_map(
    codec: str,
    data: bytes,
    tile_boxes: NDArray[np.integer],
    height: int,
    width: int,
    foreground: NDArray[np.bool_] | None = None,
) -> Float16Array:
    """The anomaly map, bit for bit what ``project`` gave when it was scored.

    Args:
        codec: column ``codec``.
        data: column ``data``.
        tile_boxes: (T, 4) int, x0, y0, x1, y1.
        height: H.
        width: W.
        foreground: (H, W) bool where the map was masked, else None.

    Returns:
        (H, W) float16.

    Raises:
        ZsadError: unknown codec, damaged data, or data that does not fit the boxes or the size.
    """
    if codec not in (TILE_MAPS, MAP):
        raise ZsadError(f"Unknown map codec {codec!r}. This version reads {TILE_MAPS!r} and {MAP!r}.")
    arrays = _decode(data)
    if codec == MAP:
        if arrays.shape != (1, height, width):
            raise ZsadError(f"Damaged map data: holds {arrays.shape}, expected (1, {height}, {width}).")
        return arrays[0]
    boxes = np.asarray(tile_boxes).reshape(-1, 4)
    if len(arrays) != len(boxes):
        raise ZsadError(f"Damaged map data: {len(arrays)} tile maps for {len(boxes)} tile boxes.")
    return project(arrays, boxes, height, width, foreground)


def _encode(arrays: Float16Array) -> bytes:
    """(N, rows, columns) float16 -> data. Every bit pattern is kept, NaN payloads and -0 too."""
    if arrays.dtype != np.float16 or arrays.ndim != 3:
        raise ZsadError(f"Expected a float16 array of three axes, given {arrays.dtype} {arrays.shape}.")
    bits = np.ascontiguousarray(arrays, "<f2").view("<u2")
    delta = bits.copy()
    delta[:, 1:] -= bits[:, :-1]
    delta[:, :, 1:] -= delta[:, :, :-1].copy()
    signs = (delta.view("<i2") >> 15).view("<u2")
    delta <<= 1
    delta ^= signs
    planes = np.ascontiguousarray(delta.view(np.uint8).reshape(-1, 2).T)
    payload = pa.Codec("zstd", compression_level=_ZSTD_LEVEL).compress(planes, asbytes=True)
    return _HEADER.pack(*arrays.shape, zlib.crc32(payload)) + payload


def _decode(data: bytes) -> Float16Array:
    """The inverse of ``_encode``. Raises ZsadError where the data is damaged."""
    if len(data) < _HEADER.size:
        raise ZsadError(f"Damaged map data: {len(data)} bytes, shorter than its header.")
    count, rows, columns, checksum = _HEADER.unpack_from(data)
    values = count * rows * columns
    payload = memoryview(data)[_HEADER.size :]
    if values > _MAX_VALUES or zlib.crc32(payload) != checksum:
        raise ZsadError("Damaged map data: its checksum or header is wrong.")
    try:
        planes = pa.Codec("zstd").decompress(pa.py_buffer(payload), decompressed_size=2 * values)
    except OSError as error:
        raise ZsadError(f"Damaged map data: {error}") from None
    low, high = np.frombuffer(planes, np.uint8).reshape(2, count, rows, columns)
    bits = high.astype("<u2")
    bits <<= 8
    bits |= low
    signs = bits & 1
    bits >>= 1
    bits ^= np.negative(signs, out=signs)
    np.cumsum(bits, axis=2, dtype="<u2", out=bits)
    np.cumsum(bits, axis=1, dtype="<u2", out=bits)
    return bits.view("<f2").astype(np.float16, copy=False)
