"""Names and places of files, as the datasets list them and as an unprivileged user reads them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.bad_images.builders import encode
from tests.bad_images.corpus import HOSTILE_NAMES, LIMITS, PICTURE
from zsad.cli import main
from zsad.datasets import files as listing
from zsad.datasets import load_manifest
from zsad.steps.item import ImageItem, load

# Root reads everything, so the child gives its rights up; not before it has imported, since another user
# may not read this checkout.
READ = """
import io, os, sys
from PIL import Image
from zsad.config import ImagesConfig
from zsad.images import decode
from zsad.steps.item import ImageItem, load

# What is imported for the first image is imported while that is allowed.
stream = io.BytesIO()
Image.new("RGB", (2, 2)).save(stream, "PNG")
decode(stream.getvalue(), 100)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
items = [ImageItem(path, "disc") for path in sys.argv[1:]]
load(items, ImagesConfig())
for item in items:
    failure = item.failure
    print(item.image.shape if failure is None else f"{failure.stage}: {failure.kind}: {failure.message}")
"""


def test_a_folder_lists_hostile_names_as_they_are(corpus):
    table = load_manifest("folder", str(corpus), object_name="disc")
    listed = dict(zip(table["image_id"].to_pylist(), table["image_path"].to_pylist(), strict=True))
    for name in HOSTILE_NAMES:
        assert listed[name] == str(corpus / name)
    # A loop of links and a link to nothing are rows; a folder and a pipe are no images.
    assert {"link to itself.png", "link there.png", "link to nothing.png"} <= set(listed)
    assert not {"folder.png", "pipe.png"} & set(listed)


def test_a_name_that_is_not_utf8_becomes_a_row_that_says_so(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xffr.png", "wb") as file:
        file.write(encode(PICTURE))
    table = load_manifest("folder", str(tmp_path), object_name="disc")
    item = ImageItem(table["image_path"][0].as_py(), "disc")
    load([item], LIMITS)
    assert item.failure.kind == "missing" and "not UTF-8" in item.failure.message


def test_a_file_that_goes_while_the_folder_is_read(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode(PICTURE))

    class Going:
        """An entry of the folder whose file is removed after it was listed."""

        def __init__(self, entry):
            self.name, self.path, self.is_symlink, self.is_dir = entry.name, entry.path, entry.is_symlink, entry.is_dir
            self.stat = entry.stat
            self.is_file = entry.is_file
            if entry.name == "a.png":
                assert entry.is_file()
                os.remove(entry.path)

    scandir = os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda path: [Going(entry) for entry in scandir(path)])
    table = load_manifest("folder", str(tmp_path), object_name="disc")
    assert table["image_id"].to_pylist() == ["a.png", "b.png"]
    assert table["file_size"].null_count == 1


@pytest.fixture
def open_folder():
    """A folder that other users reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_without_permission_the_others_are_read(open_folder):
    names = ["a.png", "forbidden.png", "b.png", "closed/c.png"]
    (open_folder / "closed").mkdir()
    for name in names:
        (open_folder / name).write_bytes(encode(PICTURE))
        os.chmod(open_folder / name, 0o644)
    os.chmod(open_folder / "forbidden.png", 0)
    os.chmod(open_folder / "closed", 0)
    command = [sys.executable, "-c", READ, *(str(open_folder / name) for name in names)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        os.chmod(open_folder / "closed", 0o700)
    assert done.returncode == 0, done.stderr
    refusal = "load: unreadable: no permission to read this file"
    assert done.stdout.splitlines() == ["(48, 64, 3)", refusal, "(48, 64, 3)", refusal]


def score(tmp_path, *rows):
    (tmp_path / "manifest.csv").write_text("image_id,image_path\n" + "".join(f"{row}\n" for row in rows))
    where = ["--root", str(tmp_path), "--output", str(tmp_path / "out")]
    return ["score", "--dataset", "manifest", "--preset", "mini", "--object", "disc", *where]


def test_one_id_for_several_paths_is_exit_code_2_with_the_first_five(tmp_path, capsys):
    rows = [f"id{number % 6},{number}.png" for number in range(12)]
    with pytest.raises(SystemExit) as ended:
        main(score(tmp_path, *rows))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "6 image_id values stand for several paths" in said
    assert [f"'id{number}'" in said for number in range(6)] == [True] * 5 + [False]
    assert not (tmp_path / "out").exists()
