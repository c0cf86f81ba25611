"""Configurations, weights and manifests that come from others: refused before they do anything."""

import os
import pickle

import pytest
from pyarrow import csv, table

from zsad.config import load_config
from zsad.datasets import load_manifest
from zsad.errors import UsageError
from zsad.models.state_dicts import load_state_dict


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_hold_code(tmp_path, zipped):
    import torch

    mark, weights = tmp_path / "mark", tmp_path / "weights.pth"
    torch.save({"layer": Touches(mark)}, weights, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match="weights"):
        load_state_dict(weights)
    weights.write_bytes(pickle.dumps(Touches(mark)))
    with pytest.raises(UsageError, match="weights"):
        load_state_dict(weights)
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir [{}]", "python/object/new:os.mkdir [{}]"])
def test_yaml_that_holds_code(tmp_path, tag):
    mark = tmp_path / "mark"
    text = "!!" + tag.format(mark)
    (tmp_path / "c.yaml").write_text(f"images: {text}\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config("mini", tmp_path / "c.yaml")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config("mini", None, [f"images.max_pixels={text}"])
    assert not mark.exists()


def manifest(folder, **columns):
    csv.write_csv(table(columns), folder / "manifest.csv")
    return load_manifest("manifest", str(folder), object_name="disc")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "root of another").mkdir()
    (tmp_path / "root of another" / "b.png").write_bytes(b"x")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "gone.png").symlink_to(tmp_path / "not there.png")
    (root / "up").symlink_to(tmp_path)
    return root


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "a/../../secret.png",
        "./../secret.png",
        "{root}/../secret.png",
        "{root} of another/b.png",
        "/etc/hostname",
        "//etc/hostname",
        "file:///etc/hostname",
        "file://{root}/../secret.png",
        "FILE:///etc/hostname",
        "s3://bucket/a.png",
        "gs://bucket/a.png",
        "http://169.254.169.254/latest/meta-data",
        "hdfs://host/a.png",
        "link.png",
        "gone.png",
        "up/secret.png",
        "up/photos/../secret.png",
    ],
)
@pytest.mark.parametrize("column", ["image_path", "mask_path", "foreground_path"])
def test_paths_that_leave_the_root(root, path, column):
    columns = {"image_path": ["a.png", "a.png"], "image_id": ["one", "two"], column: ["a.png", path.format(root=root)]}
    with pytest.raises(UsageError, match="leaves the root") as caught:
        manifest(root, **columns)
    assert "--allow-outside-root" in str(caught.value)


def test_names_that_only_look_like_it(root):
    for name in ("..a.png", "a..png", "~root.png", "file:a.png", "s3:a.png", "C:a.png"):
        (root / name).write_bytes(b"x")
    names = [path.name for path in root.iterdir() if path.is_file() and not path.is_symlink()]
    read = manifest(root, image_path=names)
    assert read["image_path"].to_pylist() == [f"{root}/{name}" for name in names]
    assert read["file_size"].null_count == 0


@pytest.mark.parametrize("path", ["s3://bucket/set/../x.png", "s3://bucket/set/%2e%2e/x.png", "../x.png", "/x.png"])
def test_paths_that_leave_a_bucket(path):
    from pyarrow import chunked_array

    from zsad.datasets.paths import confine

    with pytest.raises(UsageError, match="leaves the root"):
        confine(chunked_array([["a.png", path]]), "s3://bucket/set", column="image_path", allow_outside_root=False)


def test_a_manifest_that_is_not_text(root):
    (root / "manifest.csv").write_bytes(b"image_path\n\xff\xfe.png\n")
    with pytest.raises(UsageError, match="UTF-8"):
        load_manifest("manifest", str(root), object_name="disc")
