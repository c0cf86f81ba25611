"""The corpus on disk, and random mini models at their smallest settings."""

import pytest

from tests.bad_images.corpus import CASES, write_corpus
from tests.pipeline.conftest import BRANCHES

SMALL = (*BRANCHES, "foreground.points_per_side=2", "tiling.max_tiles=1")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, CASES)
    return folder


@pytest.fixture(scope="session")
def detector():
    from zsad import Detector, load_config

    return Detector.from_config(load_config("mini", None, SMALL))
