"""Lines about a run for people and for logs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from zsad.layout import ANOMALY_MAPS, PREDICTIONS
from zsad.storage.compact import Compaction
from zsad.text import count, duration, size


def progress_line(done: int, total: int, failed: int, seconds: float) -> str:
    """e.g. ``128/2162 images (5.9%), 3.40 images/s, 0 errors, 9m58s left``."""
    # A retried task counts its images again.
    done = min(done, total)
    share = 100 * done / total if total else 100.0
    rate = done / seconds if seconds > 0 else 0.0
    left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{done}/{total} images ({share:.1f}%), {rate:.2f} images/s, {count(failed, 'error')}{left}"


def stage_times(ms: Mapping[str, float]) -> str:
    """Milliseconds per image: ``412 ms (load 12, saliency 400)``."""
    parts = ", ".join(f"{stage} {_digits(value, 3)}" for stage, value in ms.items())
    return f"{_digits(sum(ms.values()), 4)} ms ({parts})"


def failure_line(image_id: str, stage: str, kind: str, message: str) -> str:
    """One line per failed image that grep and log tools take apart: ``image_id=a.png stage=load type=...``."""
    return _fields({"image_id": image_id, "stage": stage, "type": kind, "message": message})


def remark_line(image_id: str, message: str) -> str:
    """As ``failure_line``, for an image that was scored all the same."""
    return _fields({"image_id": image_id, "message": message})


def format_compaction(done: Compaction) -> str:
    """Files and bytes of both tables before and after."""
    lines = []
    for name, before, after in (
        (
            PREDICTIONS,
            (done.before.predictions, done.before.predictions_bytes),
            (done.after.predictions, done.after.predictions_bytes),
        ),
        (ANOMALY_MAPS, (done.before.maps, done.before.maps_bytes), (done.after.maps, done.after.maps_bytes)),
    ):
        shown = [f"{count(files, 'file')}, {size(number)}" for files, number in (before, after)]
        lines.append(f"{name:<12}  {shown[0]} -> {shown[1]}")
    return "\n".join(lines)


def _digits(value: float, number: int) -> str:
    """So many significant ones, and all of those before the point: ``0.842``, ``74,250``."""
    return f"{value:.{number}g}" if value < 10 ** (number - 1) else f"{value:,.0f}"


def _fields(values: Mapping[str, str]) -> str:
    return " ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: str) -> str:
    """As it is, or as a JSON string where it holds what would break the line or the field."""
    plain = value.isprintable() and value and not any(mark in value for mark in ' "=\\')
    return value if plain else json.dumps(value)
