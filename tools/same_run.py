"""Whether two runs over the same images hold the same results, as pandas and our reader see them.

python -m tools.same_run OUT REFERENCE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from zsad import read_anomaly_map, read_foreground
from zsad.storage import read_success

TOLERANCE = 1e-5
_ASIDE = ["stage_ms", "map_part", "map_row_group"]


def differences(output: str | Path, reference: str | Path) -> list[str]:
    """What is different in ``output``; empty when it is as good as ``reference``. Both are local and finished.

    Rows are compared as a plain ``pandas.read_parquet`` gives them: every image once, floats to 1e-5, the rest
    exactly; the times and the names of parts are left aside. Every map is compared, and must belong to a row.
    A map is rounded to float16 once, so beyond the 1e-5 a value of a map, and so ``anomaly_map_max``, may be one
    step of float16 away.
    """
    found = _leftovers(Path(output))
    if read_success(str(output)) is None:
        found.append("there is no _SUCCESS")
    ours, theirs = (pd.read_parquet(Path(run) / "predictions") for run in (output, reference))
    repeated = ours["image_id"][ours["image_id"].duplicated()].tolist()
    found += [f"{image_id} stands in several rows" for image_id in sorted(set(repeated))]
    pointers = set(zip(ours["map_part"].dropna(), ours["map_row_group"].dropna().astype(int), strict=True))
    found += _orphans(Path(output), pointers)
    if repeated:
        return found
    ours, theirs = (table.set_index("image_id").drop(columns=_ASIDE).sort_index() for table in (ours, theirs))
    if list(ours.index) != list(theirs.index):
        odd = ours.index.symmetric_difference(theirs.index)
        return [*found, f"images that only one of both has: {odd[:5].tolist()}"]
    for column in theirs.columns:
        step = column == "anomaly_map_max"
        pairs = zip(ours.index, ours[column], theirs[column], strict=True)
        unequal = [image_id for image_id, a, b in pairs if not _same(a, b, step)]
        found += [f"{column} of {i}: {ours[column][i]!r}, expected {theirs[column][i]!r}" for i in unequal[:3]]
    for image_id in theirs.index[(theirs["status"] == "ok") & (ours["status"] == "ok")]:
        found += _map_differences(str(output), str(reference), image_id)
    return found


def _same(left: Any, right: Any, step: bool = False) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if pd.isna(left) or pd.isna(right):
        return bool(pd.isna(left) and pd.isna(right))
    if isinstance(left, float | np.floating):
        return bool(abs(left - right) <= TOLERANCE + (np.spacing(np.float16(right)) if step else 0))
    return bool(left == right)


def _map_differences(output: str, reference: str, image_id: str) -> list[str]:
    ours, theirs = (read_anomaly_map(run, image_id) for run in (output, reference))
    apart = ours.shape != theirs.shape
    if apart or (np.abs(ours.astype(np.float32) - theirs) > TOLERANCE + np.spacing(theirs)).any():
        return [f"the anomaly map of {image_id}"]
    if not np.array_equal(read_foreground(output, image_id), read_foreground(reference, image_id)):
        return [f"the foreground of {image_id}"]
    return []


def _orphans(output: Path, pointers: set[tuple[str, int]]) -> list[str]:
    maps = {
        (part.name, group)
        for part in (output / "anomaly_maps").glob("[!._]*.parquet")
        for group in range(pq.read_metadata(part).num_row_groups)
    }
    return [f"map {part}:{group} belongs to no row" for part, group in sorted(maps - pointers)] + [
        f"map {part}:{group} is missing" for part, group in sorted(pointers - maps)
    ]


def _leftovers(output: Path) -> list[str]:
    hidden = [path for path in output.rglob(".*") if not path.name.startswith(".broken-")]
    return [f"{path.relative_to(output)} was left behind" for path in sorted(hidden)]


if __name__ == "__main__":
    result = differences(sys.argv[1], sys.argv[2])
    print("\n".join(result) or "the same")
    sys.exit(bool(result))
