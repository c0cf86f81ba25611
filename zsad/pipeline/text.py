"""Numbers for people."""

from __future__ import annotations


def progress_line(done: int, total: int, failed: int, seconds: float) -> str:
    """e.g. ``128/2162 images (5.9%), 3.40 images/s, 0 errors, 9m58s left``."""
    # A retried task counts its images again.
    done = min(done, total)
    share = 100 * done / total if total else 100.0
    rate = done / seconds if seconds > 0 else 0.0
    left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{done}/{total} images ({share:.1f}%), {rate:.2f} images/s, {count(failed, 'error')}{left}"


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``3 categories``."""
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith("y") else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds for people: ``42s``, ``9m58s``, ``3h05m``, ``2d04h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
