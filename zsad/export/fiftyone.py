"""A run as a FiftyOne dataset, to browse it in the FiftyOne app. Needs the extra: ``pip install 'zsad[fiftyone]'``.

Written against FiftyOne's documented interface (``Dataset``, ``Sample``, ``Classification``, ``Heatmap``).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from zsad.errors import UsageError
from zsad.export.stream import each_map
from zsad.filesystem import Uri, as_uri, exists, is_local, redact
from zsad.storage import decisions_uri, read_decisions, read_predictions

_LABELS = {0: "normal", 1: "anomalous"}
_COLUMNS = ("image_id", "image_path", "category", "split", "gt_label", "status", "pred_score")
_MAP_COLUMNS = ("anomaly_map_max", "map_part", "map_row_group")


def to_fiftyone(output: Uri, name: str | None = None, maps: bool = True) -> Any:
    """A new FiftyOne dataset with one sample per scored image.

    Fields: ``image_id``, ``category``, ``pred_score``; ``ground_truth`` and ``prediction``
    (``Classification``: normal or anomalous) where a label or a decision is known, the latter with the score
    as confidence; ``anomaly_map`` (``Heatmap``, all on the scale of the run's highest value). The split is a
    tag.

    Args:
        output: folder or URI of the run; the photographs must lie on this machine.
        name: of the dataset; FiftyOne chooses one when None.
        maps: False leaves the heatmaps out, which FiftyOne keeps in its database, 4 bytes per pixel.

    Returns:
        A ``fiftyone.Dataset``; ``fiftyone.launch_app(dataset)`` shows it.

    Raises:
        UsageError: FiftyOne is not installed, no run there, a photograph is not on this machine, or the name
            is taken.
    """
    output = as_uri(output)
    fiftyone = _import()
    predictions = read_predictions(output, [*_COLUMNS, *_MAP_COLUMNS])
    rows = predictions[predictions["status"] == "ok"].sort_values(["map_part", "map_row_group"])
    remote = rows.loc[~rows["image_path"].map(is_local).astype(bool), "image_path"]
    if len(remote):
        raise UsageError(f"FiftyOne opens local photographs only; given {redact(str(remote.iloc[0]))!r} and the like.")
    if name is not None and fiftyone.dataset_exists(name):
        raise UsageError(f"FiftyOne has a dataset {name!r} already. Give another name, or delete that one first.")
    rows = rows.assign(pred_label=_pred_labels(output, rows))
    dataset = fiftyone.Dataset(name=name)
    dataset.add_samples(_samples(fiftyone, output, rows, maps))
    return dataset


def _import() -> Any:
    try:
        return import_module("fiftyone")
    except ImportError:
        raise UsageError("FiftyOne is not installed. Expected: pip install 'zsad[fiftyone]'.") from None


def _pred_labels(output: str, rows: pd.DataFrame) -> pd.Series:
    """The labels of decisions that were made on the scores of ``rows``; NaN elsewhere."""
    if not exists(decisions_uri(output)):
        return pd.Series(np.nan, index=rows.index)
    decisions = read_decisions(output).set_index("image_id").reindex(rows["image_id"])
    current = decisions["pred_score"].to_numpy() == rows["pred_score"].to_numpy()
    return pd.Series(
        np.where(current, decisions["pred_label"].to_numpy(float, na_value=np.nan), np.nan), index=rows.index
    )


def _samples(fiftyone: Any, output: str, rows: pd.DataFrame, maps: bool) -> Iterator[Any]:
    highest = float(rows["anomaly_map_max"].max()) if len(rows) else 0.0

    def sample(row: Any) -> Any:
        made = fiftyone.Sample(filepath=row.image_path, tags=[] if pd.isna(row.split) else [row.split])
        made["image_id"] = row.image_id
        made["pred_score"] = float(row.pred_score)
        if not pd.isna(row.category):
            made["category"] = row.category
        if not pd.isna(row.gt_label):
            made["ground_truth"] = fiftyone.Classification(label=_LABELS[int(row.gt_label)])
        if not pd.isna(row.pred_label):
            label = _LABELS[int(row.pred_label)]
            made["prediction"] = fiftyone.Classification(label=label, confidence=float(row.pred_score))
        return made

    def with_map(row: Any, scores: Any) -> Any:
        made = sample(row)
        made["anomaly_map"] = fiftyone.Heatmap(map=scores.astype(np.float32), range=[0.0, highest])
        return made

    return each_map(output, rows, with_map) if maps else map(sample, rows.itertuples(index=False))
