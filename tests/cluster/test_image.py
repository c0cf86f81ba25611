"""The container file, and what is left out of images and of submitted jobs."""

import re

import pytest

from tests.cluster.conftest import CLUSTER, REPOSITORY


@pytest.fixture(scope="module")
def instructions():
    """(instruction, arguments) of the container file, with continued lines joined."""
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def of(instructions, name):
    return [arguments for instruction, arguments in instructions if instruction == name]


def test_the_base_is_pinned(instructions, pins):
    stages = of(instructions, "FROM")
    assert stages[0] == f"{pins['base']} AS base"
    assert all(stage.split()[0] in ("base", pins["base"]) for stage in stages)
    # The default is the last stage: without weights.
    assert stages[-1] == "base AS mounted" and "base AS baked" in stages
    minor = tuple(map(int, pins["python"].split(".")))
    assert any(f"('{pins['ray']}', {minor})" in run for run in of(instructions, "RUN"))


def test_not_root(instructions):
    users = of(instructions, "USER")
    assert users and all(int(user.split(":")[0]) >= 1000 for user in users)


def test_packages_are_constrained_and_no_secret_is_built_in(instructions):
    installs = [run for run in of(instructions, "RUN") if "pip install" in run]
    assert installs and all("--constraint /tmp/zsad/constraints.txt" in run for run in installs)
    assert all("--no-cache-dir" in run for run in installs)
    assert not of(instructions, "ADD") and of(instructions, "ARG") == ["PRESET=vand2023"]
    assert not re.search(r"(?i)secret|password|access_key", str(instructions))


def test_what_is_copied_is_in_the_context(instructions):
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*", "everything is left out first"
    copied = [word for copy in of(instructions, "COPY") if "--from" not in copy for word in copy.split()[1:-1]]
    assert copied and {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    assert all((REPOSITORY / name).exists() for name in copied)


def test_the_weights_lie_where_the_program_looks(instructions):
    assert "ZSAD_WEIGHTS=/weights" in str(of(instructions, "ENV"))
    assert any(copy.endswith("/tmp/zsad/weights /weights") for copy in of(instructions, "COPY"))


def test_a_submitted_job_carries_the_program_and_little_else():
    pathspec = pytest.importorskip("pathspec")
    lines = [line for name in (".gitignore", ".rayignore") for line in (REPOSITORY / name).read_text().splitlines()]
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    needed = [*(REPOSITORY / "jobs").glob("*.py"), *(REPOSITORY / "zsad").rglob("*.py")]
    needed += [*(REPOSITORY / "zsad" / "presets").glob("*.yaml")]
    names = [path.relative_to(REPOSITORY).as_posix() for path in needed]
    assert names and not list(ignored.match_files(names))
    assert not ignored.match_file("zsad/models/bundled/mini-clip.safetensors")
    for name in (".git/HEAD", ".venv/bin/python", "tests/test_cli.py", "out/run.json", "weights/sam.pth", "cluster/x"):
        assert ignored.match_file(name), name
