"""The files of cluster/, read once, and the versions they must agree with."""

import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"


@pytest.fixture(scope="session")
def pins():
    """``ray`` and ``python`` (minor) of constraints.txt, and the tags of images that follow from them."""
    text = (REPOSITORY / "constraints.txt").read_text()
    ray = re.search(r"^ray==(\S+)", text, re.M)[1]
    python = re.search(r"\(Python (\d+\.\d+)\)", text)[1]
    zsad = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.M)[1]
    base = f"{ray}-py{python.replace('.', '')}"
    return {"ray": ray, "python": python, "base": f"rayproject/ray:{base}", "image": f"zsad:{zsad}-ray{base}"}


@pytest.fixture(scope="session")
def manifests():
    """All Kubernetes objects by file stem, in order."""
    return {path.stem: list(yaml.safe_load_all(path.read_text())) for path in (CLUSTER / "kuberay").glob("*.yaml")}


@pytest.fixture(scope="session")
def readme():
    return (CLUSTER / "README.md").read_text()
