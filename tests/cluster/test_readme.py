"""The walk-through's commands: they parse, and the flags and settings exist."""

import re
import shlex
import subprocess

import pytest
import typer
from ray.scripts.scripts import cli

from tests.cluster.conftest import CLUSTER
from zsad.cli import app
from zsad.config import load_config


@pytest.fixture(scope="module")
def blocks(readme):
    found = re.findall(r"```sh\n(.*?)```", readme, re.S)
    assert len(found) >= 7
    return found


@pytest.fixture(scope="module")
def commands(blocks):
    """Every command of the walk-through as a list of words."""
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_blocks_are_shell(blocks):
    for block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def parse(name, arguments):
    """The parameters of a command of zsad; raises on a flag that does not exist or a value it refuses."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[name[0]]
        name = name[1:]
    return command.make_context("x", [*name, *arguments]).params


def test_the_commands_of_zsad_exist(commands):
    called = 0
    for words in commands:
        if words[0] == "zsad":
            parameters = parse(words[1:], [])
        elif "--" in words and words[words.index("--") + 1] == "python":
            script, *arguments = words[words.index("--") + 2 :]
            assert (CLUSTER.parent / script).is_file()
            parameters = parse([script.removeprefix("jobs/").removesuffix(".py")], arguments)
        else:
            continue
        called += 1
        if "set_" in parameters:
            load_config(parameters["preset"], None, parameters["set_"] or ())
    assert called >= 9


def test_the_commands_of_ray_exist(commands):
    checked = 0
    for words in commands:
        if words[0] != "ray":
            continue
        group, rest = cli, words[1:]
        while hasattr(group, "commands"):
            assert rest[0] in group.commands, words
            group, rest = group.commands[rest[0]], rest[1:]
        known = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)}
        flags = [word.split("=")[0] for word in rest[: rest.index("--") if "--" in rest else None]]
        assert {flag for flag in flags if flag.startswith("--")} <= known, words
        if rest and rest[0].endswith(".yaml"):
            assert (CLUSTER.parent / rest[0]).is_file()
        checked += 1
    assert checked >= 12


def test_every_setting_in_the_text_exists(readme):
    settings = re.findall(r"--set (\S+?=[^\s`]+)", readme)
    assert len(settings) >= 4
    for setting in settings:
        load_config("vand2023", None, [setting])


def test_versions_and_files_are_those_of_the_folder(readme, pins):
    assert f"{pins['ray']} and {pins['python']}" in readme and f"python{pins['python']} -m venv" in readme
    assert set(re.findall(r"zsad:(\S+?) ?\.?$", readme, re.M)) == {pins["image"].removeprefix("zsad:")}
    files = re.findall(r"`((?:kuberay/)?[a-zA-Z]+(?:\.yaml)?)` \|", readme.split("##")[0])
    assert len(files) >= 5
    for name in files:
        assert (CLUSTER / name).is_file(), name


def test_tokens_are_on_before_anything_is_submitted(blocks):
    started = [(block, found) for block in blocks for found in re.finditer(r"^ray (?:job submit|start)", block, re.M)]
    assert len(started) >= 5
    for block, submitted in started:
        assert "RAY_AUTH_MODE=token" in block[: submitted.start()]
