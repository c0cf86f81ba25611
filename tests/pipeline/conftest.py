"""A small labelled collection on which random mini models take every branch of the method."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from zsad.pipeline.ledger import Ledger

BRANCHES = (
    "models.isnet.name=random-isnet",
    "models.sam.name=random-sam",
    "models.clip.name=random-clip",
    "models.clipseg.name=random-clipseg",
    "foreground.point_pruning=none",
    # Random weights never pass the published thresholds; with these some images end in every branch.
    "foreground.binarise_threshold=0.58",
    "foreground.pred_iou_threshold=-100",
    "foreground.stability_threshold=0",
    "foreground.min_coverage=0.5",
    "foreground.points_per_side=6",
    "foreground.closing_radius=0",
    "foreground.min_component_fraction=0.003",
)


def draw(rng, height, width, parts):
    image = np.full((height, width, 3), rng.integers(60, 120), np.uint8)
    for _ in range(parts):
        centre = (int(rng.integers(20, width - 20)), int(rng.integers(20, height - 20)))
        cv2.circle(image, centre, int(rng.integers(10, 40)), [int(v) for v in rng.integers(120, 255, 3)], -1)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


class Here:
    """A ``Ledger`` in this process, called as a handle of the actor is."""

    def __init__(self):
        self._ledger = Ledger(10)

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._ledger, name))


@pytest.fixture
def ledger(monkeypatch):
    """What a ``StepActor`` takes for its ledger where no Ray is at hand."""
    monkeypatch.setattr("zsad.pipeline.actor.ray.get", lambda found: found)
    return Here()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Folder of ten images of various sizes, one of them broken and one missing an object."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    sizes = [(200, 300), (400, 360), (300, 500), (150, 150), (500, 420), (365, 352), (100, 900), (640, 480)]
    for index, (height, width) in enumerate(sizes):
        cv2.imwrite(str(folder / f"{index:02d}.png"), draw(rng, height, width, parts=index))
    (folder / "broken.jpg").write_bytes((folder / "00.png").read_bytes()[:500])
    cv2.imwrite(str(folder / "long.png"), np.zeros((10, 400, 3), np.uint8))
    return folder
