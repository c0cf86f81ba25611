"""Zero-shot anomaly detection at dataset scale (Baugh et al., VAND 2023).

The names below load on first use, so that reading results needs neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsad.config import Config, load_config
    from zsad.detector import Detection, Detector
    from zsad.errors import ImageError, UsageError, ZsadError
    from zsad.evaluation import evaluate
    from zsad.storage import read_anomaly_map, read_decisions, read_foreground, read_predictions

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Detection",
    "Detector",
    "ImageError",
    "UsageError",
    "ZsadError",
    "evaluate",
    "load_config",
    "read_anomaly_map",
    "read_decisions",
    "read_foreground",
    "read_predictions",
]

_HOME = {
    "Config": "config",
    "load_config": "config",
    "Detection": "detector",
    "Detector": "detector",
    "ImageError": "errors",
    "UsageError": "errors",
    "ZsadError": "errors",
    "evaluate": "evaluation",
    "read_anomaly_map": "storage",
    "read_decisions": "storage",
    "read_foreground": "storage",
    "read_predictions": "storage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zsad' has no attribute {name!r}")
    return getattr(import_module(f"zsad.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
