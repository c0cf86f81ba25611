"""Rows as scoring hands them to the writer, with small real maps."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.ndimage import gaussian_filter

from zsad.projection import project
from zsad.storage import SCORED_SCHEMA, encode_map, encode_rle

FINGERPRINT = "f" * 64
BOXES = np.array([[0, 0, 40, 40], [30, 0, 70, 40]])


def smooth_tiles(count, side, seed=0):
    """Tile maps as a patch-wise model makes them: a correlated grid of logits, upsampled, through a sigmoid."""
    rng = np.random.default_rng(seed)
    logits = gaussian_filter(rng.standard_normal((count, side, side)), (0, side / 15, side / 15))
    logits *= 2 / logits.std()
    return (0.6 / (1 + np.exp(3 - logits))).astype(np.float16)


def one_row(image_id, seed=0, error=False, masked=False, size=100, mtime=1_700_000_000_123_456_789, noun="nut"):
    row = dict.fromkeys(SCORED_SCHEMA.names)
    row |= {
        "image_id": image_id,
        "image_path": f"/data/{image_id}",
        "class_name": noun,
        "status": "error" if error else "ok",
        "fingerprint": FINGERPRINT,
        "file_size": size,
        "file_mtime": mtime,
    }
    if error:
        return row | {"error_stage": "load", "error_type": "truncated", "error_message": "the file ends early"}
    tiles = smooth_tiles(2, 16, seed)
    foreground = np.random.default_rng(seed).random((60, 80)) < 0.7
    anomaly_map = project(tiles, BOXES, 60, 80, foreground if masked else None)
    codec, data = encode_map(tiles, anomaly_map)
    boxes = [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in BOXES.tolist()]
    return row | {
        "image_height": 60,
        "image_width": 80,
        "pred_score": 0.25 + seed / 100,
        "anomaly_map_max": float(anomaly_map.max()),
        "component_scores": [0.5, 0.25],
        "tiles": [box | {"component": 1, "score": 0.5} for box in boxes],
        "stage_ms": {"load": 1.0, "saliency": 2.0},
        "map_codec": codec,
        "map_data": data,
        "map_tile_boxes": boxes,
        "map_masked": masked,
        "map_foreground_rle": encode_rle(foreground),
    }


def expected_map(seed=0, masked=False):
    foreground = np.random.default_rng(seed).random((60, 80)) < 0.7
    return project(smooth_tiles(2, 16, seed), BOXES, 60, 80, foreground if masked else None), foreground


class Rows:
    """What tests build tables from."""

    fingerprint = FINGERPRINT
    row = staticmethod(one_row)
    expected = staticmethod(expected_map)
    tiles = staticmethod(smooth_tiles)

    @staticmethod
    def table(*rows):
        return pa.Table.from_pylist(list(rows), SCORED_SCHEMA)


@pytest.fixture
def rows():
    return Rows


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")
