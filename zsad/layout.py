"""Names of the files and folders that we write, by which they are found again."""

from __future__ import annotations

RUN = "run.json"
"""What a run was; beside a folder ``PREDICTIONS`` the mark of a run."""
SUCCESS = "_SUCCESS"
"""Every input of the run is accounted for."""
SUSPENDED_SUCCESS = "._SUCCESS-suspended"
"""``SUCCESS`` while a row may stand in two parts."""
LOCK_HOLDER = ".lock.json"
"""Which run writes to the output now."""
PREDICTIONS = "predictions"
"""Folder of the light table, one row per input image."""
ANOMALY_MAPS = "anomaly_maps"
"""Folder of the heavy table, one row (and one row group) per scored image."""

REPORT_MARK = "report.json"
"""Says that a folder is a report's, so that its old files may be replaced."""
REPORT_OF = "report_of"
"""In the mark of a report: the run that it is of."""
EXPORT_MARK = "export.json"
"""Says which run and format a folder was exported from, and whether the export ended."""
EXPORT_FORMAT, EXPORT_FINGERPRINT = "format", "fingerprint"
"""In the mark of an export: its format and the run's fingerprint."""

EXPLAINED = "-explained.png"
"""The end of the name that ``zsad explain`` gives its picture; before it stands the name of the photograph."""
