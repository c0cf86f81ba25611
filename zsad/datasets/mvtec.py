"""MVTec AD: ``<class>/{train/good, test/{good,<defect>}, ground_truth/<defect>/NNN_mask.png}``."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from zsad.datasets.class_folders import read_class_folders


def read_mvtec(root: str, *, class_names: Mapping[str, str], allow_outside_root: bool = False) -> pa.Table:
    """A manifest of MVTec AD, both splits. Raises UsageError when the root has another layout."""
    return read_class_folders(
        root,
        class_names=class_names,
        expected="MVTec AD's layout: <class>/{train/good, test/good, test/<defect>, ground_truth/<defect>}",
        allow_outside_root=allow_outside_root,
    )
