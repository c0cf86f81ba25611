from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from zsad.storage import SCORED_SCHEMA, encode_map, read_predictions, write_part


class Run:
    """Rows and maps of a scored run, to be written as a job writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[int, list[dict]] = {}
        self.outputs = 0

    def add(
        self,
        image_id: str,
        label: int | None = 0,
        score: float = 0.5,
        scores: np.ndarray | None = None,
        mask: np.ndarray | Path | None = None,
        category: str | None = "candle",
        split: str | None = "test",
        part: int = 0,
    ) -> None:
        scores = np.zeros((4, 6), np.float16) if scores is None else np.asarray(scores, np.float16)
        codec, data = encode_map(scores[None], scores)
        self.parts.setdefault(part, []).append(
            {
                "image_id": image_id,
                "image_path": str(self.folder / f"{image_id}.jpg"),
                "category": category,
                "split": split,
                "gt_label": label,
                "mask_path": self.mask(image_id, mask) if isinstance(mask, np.ndarray) else mask and str(mask),
                "image_height": scores.shape[0],
                "image_width": scores.shape[1],
                "status": "ok",
                "pred_score": score,
                "fingerprint": "f",
                "map_codec": codec,
                "map_data": data,
                "map_tile_boxes": [],
                "map_masked": False,
                "map_foreground_rle": "",
            }
        )

    def add_failed(self, image_id: str, label: int = 0, category: str = "candle") -> None:
        row = {"image_id": image_id, "category": category, "split": "test", "gt_label": label}
        self.parts.setdefault(0, []).append(row | {"status": "error", "fingerprint": "f"})

    def mask(self, image_id: str, mask: np.ndarray) -> str:
        path = self.folder / f"{image_id}.png"
        Image.fromarray(mask.astype(np.uint8)).save(path)
        return str(path)

    def write(self) -> str:
        """Commit everything into a new output folder."""
        self.outputs += 1
        output = str(self.folder / f"output-{self.outputs}")
        for part, rows in self.parts.items():
            write_part(output, f"part-test-{part:06d}.parquet", pa.Table.from_pylist(rows, SCORED_SCHEMA))
        return output

    def predictions(self) -> pd.DataFrame:
        return read_predictions(self.write())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)
