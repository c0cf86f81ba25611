"""Every snippet of the README's query cookbook runs as it stands there, on a small run in ``out/``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.scored import failed_row, scored_row, write_rows
from zsad.storage import DECISIONS_SCHEMA, read_predictions, write_decisions

README = Path(__file__).parent.parent / "README.md"
HEADING = "## Query cookbook"


def snippets() -> list[str]:
    _, _, section = README.read_text("utf-8").partition(f"\n{HEADING}\n")
    return re.findall(r"^```python\n(.*?)^```$", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = []
    for index in range(6):
        scores = np.full((8, 10), index / 10, np.float16)
        row = scored_row(
            f"{index}.png",
            scores,
            category="nut" if index % 2 else "bolt",
            pred_score=0.3 + index / 10,
            anomaly_map_max=index / 10,
            foreground_source="dis",
            tiles=[{"x0": 0, "y0": 0, "x1": 10, "y1": 8, "component": 1, "score": index / 10}],
        )
        rows.append(row)
    error = {"error_stage": "load", "error_type": "truncated", "error_message": "the file ends early"}
    rows.append(failed_row("bad.png", category="nut", **error))
    output = str(tmp_path / "out")
    write_rows(output, 0, rows)
    predictions = read_predictions(output)
    columns = {"threshold": 0.75, "pixel_threshold": 0.4, "rule": "budget:2"}
    label = (predictions["pred_score"] >= 0.75).astype("Int8").where(predictions["status"] == "ok")
    write_decisions(output, predictions.assign(pred_label=label, **columns)[DECISIONS_SCHEMA.names])
    lines = "".join(f"{index}.png,line {index % 3},night\n" for index in range(6))
    (tmp_path / "production.csv").write_text("image_id,line,shift\n" + lines)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_a_cookbook() -> None:
    text = "\n".join(snippets())
    assert len(snippets()) >= 5, f"README.md has no section {HEADING!r} with python blocks"
    assert all(
        name in text for name in ("import pandas", "import duckdb", "import polars", "read_anomaly_map", "merge")
    )


def test_every_snippet_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = snippets()
    assert found, f"README.md has no section {HEADING!r} with python blocks"
    names: dict[str, object] = {}
    for number, snippet in enumerate(found, start=1):
        alone: dict[str, object] = {}
        exec(compile(snippet, f"{README.name}, snippet {number} of the cookbook", "exec"), alone)
        names |= alone
    assert names["top"]["image_id"].iloc[0] == "5.png"
    assert names["errors"].fetchall() == [("load", "truncated", 1, "bad.png")]
    assert names["flagged"].rows() == [("bolt", 3, 2), ("nut", 4, 2)]
    with Image.open(folder / "worst.png") as image:
        assert image.size == (10, 8) and np.asarray(image).min() > 0
    assert names["tiles"].fetchall()[0][:5] == ("5.png", 0, 0, 10, 8)
    by_line = names["by_line"]
    assert isinstance(by_line, pd.DataFrame) and by_line["sum"].sum() == 1 and by_line["count"].sum() == 6
    assert "example" in capsys.readouterr().out
