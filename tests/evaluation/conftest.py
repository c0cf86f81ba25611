from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.scored import failed_row, scored_row, write_rows
from zsad.storage import read_predictions


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
        row = scored_row(
            image_id,
            scores,
            image_path=str(self.folder / f"{image_id}.jpg"),
            category=category,
            split=split,
            gt_label=label,
            mask_path=self.mask(image_id, mask) if isinstance(mask, np.ndarray) else mask and str(mask),
            pred_score=score,
        )
        self.parts.setdefault(part, []).append(row)

    def add_failed(self, image_id: str, label: int = 0, category: str = "candle") -> None:
        row = failed_row(image_id, category=category, split="test", gt_label=label)
        self.parts.setdefault(0, []).append(row)

    def mask(self, image_id: str, mask: np.ndarray) -> str:
        path = self.folder / f"{image_id}.png"
        Image.fromarray(mask.astype(np.uint8)).save(path)
        return str(path)

    def write(self) -> str:
        """Commit everything into a new output folder."""
        self.outputs += 1
        output = str(self.folder / f"output-{self.outputs}")
        for part, rows in self.parts.items():
            write_rows(output, part, rows)
        return output

    def predictions(self) -> pd.DataFrame:
        return read_predictions(self.write())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)
