"""The installed command: exit codes and one clear message for every kind of wrong input, nothing written."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from zsad.config import load_config
from zsad.fingerprint import fingerprint, scored_fields
from zsad.models import isnet
from zsad.pipeline.weights import weights_hashes
from zsad.storage import RunInfo, part_name, write_part, write_run, write_success

COMMAND = str(Path(sys.executable).parent / "zsad")


def zsad(*arguments, **environment):
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "100"} | environment,
    )


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), np.zeros((20, 20, 3), np.uint8))
    return images


@pytest.fixture
def visa(tmp_path):
    root = tmp_path / "visa"
    (root / "split_csv").mkdir(parents=True)
    (root / "split_csv" / "1cls.csv").write_text(
        "object,split,label,image,mask\npcb1,test,normal,pcb1/a.png,\npcb2,train,normal,pcb2/b.png,\n"
    )
    return root


def score(folder, tmp_path, *extra, dataset="folder"):
    return zsad(
        "score", "--dataset", dataset, "--root", folder, "--output", tmp_path / "out", "--preset", "mini", *extra
    )


def refused(done, tmp_path, pattern):
    assert done.returncode == 2, done.stderr
    assert re.search(pattern, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error: ") == 1
    assert not (tmp_path / "out").exists()


CASES = {
    "unknown preset": (["--object", "x", "--preset", "nosuch"], r"Unknown preset 'nosuch'.*mini.*vand2023"),
    "unknown field": (["--object", "x", "--set", "tiling.foo=1"], r"tiling.foo: unknown field.*min_side"),
    "value out of range": (["--object", "x", "--set", "tiling.max_tiles=0"], r"tiling.max_tiles: given 0"),
    "no object": ([], r"--object"),
    "no list of prompts": (["--object", "x", "--set", "prompts.localising=[]"], r"prompts.localising"),
    "state without a place for the noun": (["--object", "x", "--set", "prompts.normal_states=[good]"], r"\[o\]"),
    "a noun too long for the text model": (["--object", "very " * 80 + "long"], r"77"),
    "infinite temperature": (["--object", "x", "--set", "tile_level.temperature=.inf"], r"tile_level.temperature"),
    "a GPU where there is none": (["--object", "x", "--set", "runtime.device=cuda"], r"the cluster has no GPU"),
    "an output that cannot be written": (["--object", "x", "--output", "/proc/zsad"], r"Cannot write to the output"),
    "a secret with a slash": (["--object", "x", "--root", "s3://AKIA:ab/hunter2@b/o"], r"environment"),
    "unknown model": (["--object", "x", "--set", "models.sam.name=nosuch"], r"nosuch.*sam-vit-h"),
    "an empty root": (["--object", "x", "--root", ""], r"empty path"),
    "an empty output": (["--object", "x", "--output", ""], r"empty path"),
    "credentials in the output": (["--object", "x", "--output", "s3://k:hunter2@b/o"], r"environment"),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_options(folder, tmp_path, case):
    extra, pattern = CASES[case]
    done = score(folder, tmp_path, *extra)
    refused(done, tmp_path, pattern)
    assert "hunter2" not in done.stderr


def test_missing_root(tmp_path):
    refused(score(tmp_path / "nowhere", tmp_path, "--object", "x"), tmp_path, r"nowhere")


def test_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(score(tmp_path / "empty", tmp_path, "--object", "x"), tmp_path, r"(?i)no image")


def test_unknown_layout(folder, tmp_path):
    refused(score(folder, tmp_path, dataset="visa"), tmp_path, r"1cls\.csv.*meta\.json")


def test_category_without_images(visa, tmp_path):
    refused(score(visa, tmp_path, "--category", "pcb2", dataset="visa"), tmp_path, r"split 'test'.*train")
    refused(score(visa, tmp_path, "--category", "pcb9", dataset="visa"), tmp_path, r"pcb9.*pcb1")


def test_one_id_with_two_paths(folder, tmp_path):
    cv2.imwrite(str(folder / "b.png"), np.zeros((20, 20, 3), np.uint8))
    manifest = folder / "manifest.csv"
    manifest.write_text("image_id,image_path,class_name\n1,a.png,nut\n1,b.png,nut\n")
    refused(score(manifest, tmp_path, dataset="manifest"), tmp_path, r"'?1'?.*a\.png.*b\.png")


def test_weights_missing_offline(folder, tmp_path):
    done = score(folder, tmp_path, "--object", "x", "--set", "models.sam.name=sam-vit-b")
    refused(done, tmp_path, r"sam_vit_b_01ec64\.pth.*375 MB.*looked in.*zsad models download sam-vit-b")


def test_state_dict_of_the_wrong_shape(folder, tmp_path):
    state = isnet.load(load_config("mini").models.isnet).network.state_dict()
    state["conv_in.weight"] = torch.zeros(3, 3, 3, 3)
    torch.save(state, tmp_path / "wrong.pth")
    done = score(folder, tmp_path, "--object", "x", "--set", f"models.isnet.weights={tmp_path / 'wrong.pth'}")
    refused(done, tmp_path, r"conv_in\.weight \(3, 3, 3, 3\), expected")


def test_unknown_dataset_is_a_usage_error(folder, tmp_path):
    done = score(folder, tmp_path, dataset="nosuch")
    assert done.returncode == 2 and "visa" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "top"])
def test_reading_a_run_that_is_not_there(tmp_path, command):
    done = zsad(command, tmp_path / "nowhere")
    refused(done, tmp_path, r"nowhere.*zsad score|zsad score.*nowhere|nowhere")


def times_of(folder):
    """Every file and folder below ``folder`` with its time of modification."""
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def finished_run(folder, output, errors, object_name="nut", trained=True):
    """A finished run of one image per file of ``folder``, the first ``errors`` of them failed."""
    from zsad.datasets import load_manifest
    from zsad.pipeline.adapter import scored_table
    from zsad.steps.item import Failure, ImageItem
    from zsad.storage import manifest_hash

    config = load_config("mini")
    weights = weights_hashes(config)
    mark = fingerprint(config, weights, object_name)
    manifest = load_manifest("folder", str(folder), object_name=object_name)
    items = [ImageItem(path, object_name) for path in manifest["image_path"].to_pylist()]
    for item in items[:errors]:
        item.failure = Failure("load", "truncated", "the file ends early")
    tables = []
    for index, item in enumerate(items):
        if item.failure is None:
            item.height = item.width = 20
            item.foreground = np.ones((20, 20), bool)
            item.foreground_source = "full_image"
            item.tiles = ()
            item.tile_scores = item.component_scores = np.zeros(0, np.float32)
            item.score = 0.5 + index / 100
            item.tile_maps = np.zeros((0, 4, 4), np.float16)
        tables.append(scored_table([item], manifest.slice(index, 1), mark, False))
    write_part(str(output), part_name("r", 0), pa.concat_tables(tables))
    fields = scored_fields(config, weights, object_name)
    write_run(str(output), RunInfo(mark, config.model_dump(mode="json"), fields, weights, dataset={"trained": trained}))
    write_success(str(output), {"images": len(items)}, manifest_hash(manifest))


@pytest.mark.parametrize(("errors", "fraction", "code"), [(0, "0", 0), (1, "0.5", 0), (1, "0.2", 3)])
def test_a_finished_run_gives_the_code_of_its_table_without_starting_ray(folder, tmp_path, errors, fraction, code):
    cv2.imwrite(str(folder / "b.png"), np.zeros((20, 20, 3), np.uint8))
    finished_run(folder, tmp_path / "out", errors)
    before = times_of(tmp_path)
    done = score(folder, tmp_path, "--object", "nut", "--max-error-fraction", fraction, "--address", "ray://0.0.0.0:1")
    assert done.returncode == code, done.stderr
    assert "2 already done, 0 to do" in done.stderr
    assert f"2 rows, {2 - errors} ok, {errors} error" in done.stderr
    assert ("load/truncated 1" in done.stderr) == bool(errors)
    assert times_of(tmp_path) == before


def test_a_reader_of_the_log_that_leaves_ends_no_run(folder, tmp_path):
    finished_run(folder, tmp_path / "out", errors=1)
    command = [COMMAND, "score", "--dataset", "folder", "--root", folder, "--output", tmp_path / "out"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*command, "--object", "nut", "--preset", "mini"], stdout=writing, stderr=writing)
    os.close(writing)
    assert done.returncode == 3


def test_another_configuration_is_refused_and_nothing_changes(folder, tmp_path):
    finished_run(folder, tmp_path / "out", 0)
    before = times_of(tmp_path)
    for setting, change in (
        ("foreground.min_coverage=0.5", "foreground.min_coverage: 0.8 -> 0.5"),
        ("tiling.max_tiles=3", "tiling.max_tiles: 64 -> 3"),
    ):
        done = score(folder, tmp_path, "--object", "nut", "--set", setting)
        assert done.returncode == 2 and change in done.stderr
    assert times_of(tmp_path) == before


def test_another_configuration_is_refused_before_weights_are_looked_for(folder, tmp_path):
    finished_run(folder, tmp_path / "out", 0)
    done = score(folder, tmp_path, "--object", "nut", "--set", "models.sam.name=sam-vit-b")
    assert done.returncode == 2
    assert "models.sam.name: 'mini-sam' -> 'sam-vit-b'" in done.stderr and "not found" not in done.stderr


@pytest.mark.parametrize("trained", [True, False])
def test_top_ranks_and_says_untrained_when_it_is(folder, tmp_path, trained):
    cv2.imwrite(str(folder / "b.png"), np.zeros((20, 20, 3), np.uint8))
    finished_run(folder, tmp_path / "out", 0, trained=trained)
    done = zsad("top", tmp_path / "out", "-n", "1")
    assert done.returncode == 0
    assert "b.png" in done.stdout and "a.png" not in done.stdout
    assert ("untrained" in done.stdout) != trained
    assert "could not be scored" not in done.stdout


def test_top_of_a_category_and_of_an_unfinished_run(folder, tmp_path):
    finished_run(folder, tmp_path / "out", 0)
    assert "unfinished" not in zsad("top", tmp_path / "out").stdout
    (tmp_path / "out" / "_SUCCESS").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "zsad", "top", str(tmp_path / "out")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "the run is unfinished (no _SUCCESS)" in done.stdout
    done = zsad("top", tmp_path / "out", "--category", "wash")
    assert done.returncode == 2 and "No image of category 'wash'. Expected of none: the run has no" in done.stderr


def test_top_says_how_many_could_not_be_scored(folder, tmp_path):
    cv2.imwrite(str(folder / "b.png"), np.zeros((20, 20, 3), np.uint8))
    finished_run(folder, tmp_path / "out", 1)
    assert (
        "1 of 1 scored images, highest score first; 1 more could not be scored\n"
        in zsad("top", tmp_path / "out").stdout
    )


def test_evaluate_without_labels(folder, tmp_path):
    finished_run(folder, tmp_path / "out", 0)
    done = zsad("evaluate", tmp_path / "out")
    assert done.returncode == 2
    assert "has a label" in done.stderr


def test_unreachable_cluster_fails_with_1(folder, tmp_path):
    done = score(folder, tmp_path, "--object", "nut", "--address", "127.0.0.1:1")
    assert done.returncode == 1, done.stderr
    assert "Cannot reach Ray at '127.0.0.1:1': [Errno 111] Connection refused" in done.stderr


def test_models_list_names_licence_size_and_hash():
    done = zsad("models", "list")
    assert done.returncode == 0
    for text in (
        "sam-vit-h",
        "2.6 GB",
        "Apache-2.0",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ):
        assert text in done.stdout


def test_models_verify_and_download_offline(tmp_path):
    done = zsad("models", "verify", "sam-vit-h", "mini-sam", "isnet-general-use", ZSAD_CACHE=str(tmp_path))
    assert (
        done.returncode == 2
        and "2 of 3 models are missing or not as expected: sam-vit-h, isnet-general-use" in done.stderr
    )
    first, second = done.stdout.index("sam-vit-h: Weights sam-vit-h"), done.stdout.index("mini-sam: sha256")
    assert first < second < done.stdout.index("isnet-general-use: Weights")
    done = zsad("models", "download", "--preset", "vand2023", ZSAD_CACHE=str(tmp_path))
    assert done.returncode == 2 and "offline" in done.stderr
    assert zsad("models", "verify").returncode == 2


def test_version_and_short_help():
    assert zsad("--version").stdout == f"zsad {version('zsad')}\n"
    assert zsad("plan", "-h").stdout == zsad("plan", "--help").stdout != ""


@pytest.mark.parametrize(
    "command", [[], ["score"], ["evaluate"], ["top"], ["export"], ["demo"], ["models"], ["models", "list"]]
)
def test_help_shows_an_example(command):
    done = zsad(*command, "--help")
    assert done.returncode == 0
    assert "Usage: zsad" in done.stdout
    if command and command != ["models"]:
        assert f"Example: zsad {' '.join(command)}" in " ".join(done.stdout.split())


def test_demo_refuses_a_folder_of_someone_else(folder):
    done = zsad("demo", "--output", folder)
    assert done.returncode == 2 and "not an earlier demo" in done.stderr


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", ">&- 2>&-"])
def test_the_command_ends_at_once_with_all_it_has_said(closed):
    code = """
import atexit, sys
from zsad import cli
main = cli.main
def and_more(arguments):
    try:
        main(arguments)
    finally:
        print("said last")
cli.main = and_more
atexit.register(print, "taken apart", file=sys.__stderr__)
cli.command(sys.argv[1:])
"""
    line = shlex.join([sys.executable, "-c", code, "models", "list"])
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(f"{line} {closed}", shell=True, capture_output=True, text=True, env=buffered)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("said last\n") == ("mini-clipseg" in done.stdout) == (closed[:1] != ">")
    failed = subprocess.run(f"{line} nosuch", shell=True, capture_output=True, text=True)
    assert failed.returncode == 2 and "taken apart" not in failed.stderr


@pytest.mark.parametrize("option", ["--root", "--output", "--object"])
def test_arguments_that_are_not_utf8_are_refused(folder, tmp_path, option):
    given = {"--root": folder, "--output": tmp_path / "out", "--object": "bolt", option: "caf\udce9"}
    pairs = [str(part) for pair in given.items() for part in pair]
    done = zsad("score", "--dataset", "folder", *pairs, "--preset", "mini")
    refused(done, tmp_path, r"Given 'caf\\udce9', which is not UTF-8")
