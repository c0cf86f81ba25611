"""Every layout on tiny trees, and every message a user can meet."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv, parquet

from zsad.datasets import MANIFEST_SCHEMA, load_manifest
from zsad.errors import UsageError
from zsad.images import EXTENSIONS, FORMATS
from zsad.storage import PREDICTIONS_SCHEMA


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 7)


def visa_csv(root: Path, *rows: str) -> None:
    touch(root, *(row.split(",")[3] for row in rows))
    path = root / "split_csv" / "1cls.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["object,split,label,image,mask", *rows]) + "\n")


CSV_ROWS = (
    "pcb1,train,normal,pcb1/Data/Images/Normal/000.JPG,",
    "pcb1,test,normal,pcb1/Data/Images/Normal/001.JPG,",
    "pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png",
    "pipe_fryum,test,anomaly,pipe_fryum/Data/Images/Anomaly/000.JPG,pipe_fryum/Data/Masks/Anomaly/000.png",
)


def test_visa_original_csv(tmp_path):
    visa_csv(tmp_path, *CSV_ROWS)
    table = load_manifest("visa", str(tmp_path))
    assert table.schema == MANIFEST_SCHEMA
    assert table["image_id"].to_pylist() == [row.split(",")[3] for row in CSV_ROWS[1:]]
    assert table["image_path"].to_pylist() == [f"{tmp_path}/{row.split(',')[3]}" for row in CSV_ROWS[1:]]
    assert table["class_name"].to_pylist() == ["printed circuit board"] * 2 + ["pipe fryum"]
    assert table["gt_label"].to_pylist() == [0, 1, 1]
    assert table["mask_path"].to_pylist() == [
        None,
        f"{tmp_path}/pcb1/Data/Masks/Anomaly/000.png",
        f"{tmp_path}/pipe_fryum/Data/Masks/Anomaly/000.png",
    ]
    assert table["file_size"].to_pylist() == [7, 7, 7]
    expected = os.stat(table["image_path"][0].as_py()).st_mtime_ns
    assert table["file_mtime"][0].as_py() == expected


def test_splits_categories_limit_and_nouns(tmp_path):
    visa_csv(tmp_path, *CSV_ROWS)
    root = str(tmp_path)
    assert len(load_manifest("visa", root, split="all")) == len(load_manifest("visa", root, split=None)) == 4
    assert load_manifest("visa", root, split="all", limit=2)["split"].to_pylist() == ["train", "test"]
    chosen = load_manifest("visa", root, categories=["pipe_fryum"], class_names={"pipe_fryum": "snack"})
    assert chosen["class_name"].to_pylist() == ["snack"]


@pytest.mark.parametrize("prefix", ["", "1cls/"])
def test_visa_reorganised(tmp_path, prefix):
    for name in ("candle", "pcb2"):
        touch(
            tmp_path,
            *(f"{prefix}{name}/{rest}" for rest in ("train/good/1.JPG", "test/good/10.JPG", "test/good/9.JPG")),
            *(f"{prefix}{name}/{rest}" for rest in ("test/bad/0.JPG", "ground_truth/bad/0.png", "notes.txt")),
        )
    table = load_manifest("visa", str(tmp_path), categories=["pcb2"])
    assert table["image_id"].to_pylist() == [
        f"{prefix}pcb2/test/bad/0.JPG",
        f"{prefix}pcb2/test/good/9.JPG",
        f"{prefix}pcb2/test/good/10.JPG",
    ]
    assert table["gt_label"].to_pylist() == [1, 0, 0]
    assert table["mask_path"].to_pylist() == [f"{tmp_path}/{prefix}pcb2/ground_truth/bad/0.png", None, None]
    assert table["class_name"].to_pylist() == ["printed circuit board"] * 3
    assert len(load_manifest("visa", str(tmp_path), split="train")) == 2


def test_visa_meta_json(tmp_path):
    touch(tmp_path, "a/0.jpg", "a/1.jpg", "a/2.jpg")

    def item(name: str, mask: str, anomaly: int) -> dict[str, object]:
        return {"img_path": name, "mask_path": mask, "cls_name": "a", "specie_name": "", "anomaly": anomaly}

    meta = {
        "train": {"a": [item("a/0.jpg", "", 0)]},
        "test": {"a": [item("a/1.jpg", "", 0), item("a/2.jpg", "a/m.png", 1)]},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    table = load_manifest("visa", str(tmp_path))
    assert table["image_id"].to_pylist() == ["a/1.jpg", "a/2.jpg"]
    assert table["gt_label"].to_pylist() == [0, 1]
    assert table["mask_path"].to_pylist() == [None, f"{tmp_path}/a/m.png"]


def test_mvtec(tmp_path):
    touch(
        tmp_path,
        "metal_nut/train/good/000.png",
        "metal_nut/test/good/000.png",
        "metal_nut/test/bent/000.png",
        "metal_nut/test/flip/000.png",
        "metal_nut/ground_truth/bent/000_mask.png",
        "license.txt",
    )
    table = load_manifest("mvtec", str(tmp_path))
    assert table["image_id"].to_pylist() == [f"metal_nut/test/{kind}/000.png" for kind in ("bent", "flip", "good")]
    assert table["mask_path"].to_pylist() == [f"{tmp_path}/metal_nut/ground_truth/bent/000_mask.png", None, None]
    assert table["gt_label"].to_pylist() == [1, 1, 0]
    assert set(table["class_name"].to_pylist()) == {"metal nut"}


def test_folder_is_natural_recursive_and_unlabelled(tmp_path):
    names = ["10.png", "2.PNG", "b/1.jpg", "b c/ü\n.webp", "a.txt", ".hidden.png", ".git/x.png", "007.png"]
    touch(tmp_path, *names)
    table = load_manifest("folder", str(tmp_path), object_name="metal washer")
    assert table["image_id"].to_pylist() == ["2.PNG", "007.png", "10.png", "b/1.jpg", "b c/ü\n.webp"]
    for name in ("category", "split", "gt_label", "mask_path"):
        assert table[name].null_count == 5
    assert set(table["class_name"].to_pylist()) == {"metal washer"}
    assert table["file_size"].to_pylist() == [7] * 5
    assert all(Path(path).is_file() for path in table["image_path"].to_pylist())


def test_files_left_out_by_their_ending_are_named(tmp_path):
    touch(tmp_path, "a.JFIF", "b.jpe", "c.png", *(f"{index}.HEIC" for index in range(3)), "x.txt", "d/x.txt", ".y.raw")
    with pytest.warns(UserWarning) as caught:
        table = load_manifest("folder", str(tmp_path), object_name="x")
    assert table["image_id"].to_pylist() == ["a.JFIF", "b.jpe", "c.png"]
    (said,) = (str(warning.message) for warning in caught)
    assert said.startswith(f"Left out 5 files of '{tmp_path}' by ending: '.heic' (3), '.txt' (2). These are read: ")
    assert "\n" not in said and ".jfif, .jpe, .jpeg, .jpg" in said
    touch(tmp_path, "README", "e.a\nb", "e.c", "e.d", "e.e")
    with pytest.warns(UserWarning, match=r"'.heic' \(3\), '.txt' \(2\), .*no ending \(1\).* and 2 more\. These"):
        load_manifest("folder", str(tmp_path), object_name="x")
    touch(tmp_path, "only/a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_manifest("folder", str(tmp_path / "only"), object_name="x")


def test_every_ending_is_that_of_a_format_we_decode():
    assert {Image.registered_extensions()[ending] for ending in EXTENSIONS} == set(FORMATS)


def test_what_a_run_wrote_is_no_input(tmp_path):
    run = ("run.json", "predictions/part-0.parquet", "report/images/a.png", "exports/masks/b/a.png")
    touch(tmp_path, "a.png", "out2/a.png", *(f"{out}/{name}" for out in ("out", "day 1/out") for name in run))
    touch(tmp_path, "camera/run.json", "camera/b.png", "predictions/c.png")
    table = load_manifest("folder", str(tmp_path), object_name="x")
    assert table["image_id"].to_pylist() == ["a.png", "camera/b.png", "out2/a.png", "predictions/c.png"]
    assert len(load_manifest("folder", str(tmp_path / "out" / "report"), object_name="x")) == 1


def test_reports_and_exports_elsewhere_and_pictures_of_explain_are_no_input(tmp_path):
    touch(tmp_path, "a.png", "r 1/pictures/ab/ab1-photo.jpg", "e/masks/b.png")
    (tmp_path / "r 1" / "report.json").write_text('{"report_of": "/out"}')
    (tmp_path / "e" / "export.json").write_text('{"format": "masks", "fingerprint": "f", "complete": false}')
    # Folders of others that look alike.
    touch(
        tmp_path, "mine/report.json", "mine/pictures/1.jpg", "mine/c.png", "theirs/d.png", "odd/d.png", "odd/d.png.jpg"
    )
    (tmp_path / "theirs" / "export.json").write_text('["format", "fingerprint"]')
    touch(tmp_path, "a-explained.png", "f-explained.png", "mine/a-explained.png")
    with pytest.warns(UserWarning) as caught:
        table = load_manifest("folder", str(tmp_path), object_name="x")
    kept = ["a.png", "f-explained.png", "mine/a-explained.png", "mine/c.png", "mine/pictures/1.jpg"]
    assert table["image_id"].to_pylist() == [*kept, "odd/d.png", "odd/d.png.jpg", "theirs/d.png"]
    first = str(caught[0].message)
    assert "1 picture of zsad explain beside the photographs, e.g. 'a-explained.png'" in first


def test_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    touch(tmp_path, "set/a.png")
    monkeypatch.chdir(tmp_path)
    table = load_manifest("folder", "set", object_name="x")
    assert table["image_path"].to_pylist() == [f"{tmp_path}/set/a.png"]
    assert load_manifest("folder", f"file://{tmp_path}/set", object_name="x")["image_path"] == table["image_path"]


def test_links_stay_inside_the_root(tmp_path):
    touch(tmp_path, "root/real/a.png", "root/.store/b.png", "outside/c.png")
    root = tmp_path / "root"
    (root / "linked").symlink_to(root / ".store")
    (root / "loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "leaving").symlink_to(tmp_path / "outside")
    (root / "leaving.png").symlink_to(tmp_path / "outside" / "c.png")
    (root / "broken.png").symlink_to(root / "nothing.png")
    with pytest.warns(UserWarning, match="2 links that leave .*--allow-outside-root"):
        table = load_manifest("folder", str(root), object_name="x")
    assert table["image_id"].to_pylist() == ["broken.png", "linked/b.png", "real/a.png"]
    assert table["file_size"].to_pylist() == [None, 7, 7]
    more = load_manifest("folder", str(root), object_name="x", allow_outside_root=True)
    assert {"leaving.png", "leaving/c.png"} <= set(more["image_id"].to_pylist())


def test_name_that_is_not_utf8_is_kept_as_a_row(tmp_path):
    touch(tmp_path, "a.png")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    table = load_manifest("folder", str(tmp_path), object_name="x")
    assert table["image_id"].to_pylist() == ["\\xff.png", "a.png"]


def write_manifest(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_manifest_csv_with_everything(tmp_path):
    touch(tmp_path, "i/a.png", "i/b c.png", "i/n\nl.png")
    root = write_manifest(
        tmp_path / "list.csv",
        "image_path,image_id,category,class_name,split,gt_label,mask_path,foreground_path,operator\n"
        "i/a.png,one,pcb3,,test,good,,f/a.png,Ann\n"
        f'{tmp_path}/i/b c.png,,gear,cog wheel,test,1,"m/b, c.png",,Bob\n'
        '"i/n\nl.png",,gear,,test,,,,\n'
        "i/../i/gone.png,,gear,,test,Anomalous,,,\n"
        "i/a.png,late,gear,,train,0,,,\n",
    )
    table = load_manifest("manifest", root)
    assert table["image_id"].to_pylist() == ["one", "i/b c.png", "i/n\nl.png", "i/gone.png"]
    assert table["class_name"].to_pylist() == ["printed circuit board", "cog wheel", "gear", "gear"]
    assert table["gt_label"].to_pylist() == [0, 1, None, 1]
    assert table["mask_path"].to_pylist() == [None, f"{tmp_path}/m/b, c.png", None, None]
    assert table["foreground_path"].to_pylist() == [f"{tmp_path}/f/a.png", None, None, None]
    assert table["file_size"].to_pylist() == [7, 7, 7, None]
    assert table["file_mtime"].null_count == 1


def test_columns_that_are_not_read_are_named_once(tmp_path):
    columns = ["image_path", "operator", "GT-label", "mask_paht", "image_id", *(f"x{index}" for index in range(9))]
    root = write_manifest(tmp_path / "m.csv", f"{','.join(columns)}\na.png{',' * (len(columns) - 1)}\n")
    with pytest.warns(UserWarning) as caught:
        load_manifest("manifest", root, object_name="x")
    (said,) = (str(warning.message) for warning in caught)
    assert said.startswith(
        f"12 columns of '{root}' not read: 'GT-label' (did you mean 'gt_label'?), "
        "'mask_paht' (did you mean 'mask_path'?), 'operator', 'x0', "
    )
    assert said.endswith("'x6' and 2 more.")


def test_columns_of_pandas_and_of_our_predictions_are_not_named(tmp_path):
    frame = pd.DataFrame({"image_path": ["a.png", "b.png"]}, index=[3, 5])
    frame.to_csv(tmp_path / "index.csv")
    pd.read_csv(tmp_path / "index.csv").to_csv(tmp_path / "twice.csv", index=False)
    frame.reset_index().to_csv(tmp_path / "reset.csv", index=False)
    frame.to_parquet(tmp_path / "index.parquet")
    assert parquet.read_schema(tmp_path / "index.parquet").names == ["image_path", "__index_level_0__"]
    scored = pa.table({name: ["a.png"] if name.startswith("image_") else [None] for name in PREDICTIONS_SCHEMA.names})
    parquet.write_table(scored, tmp_path / "predictions.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("index.csv", "twice.csv", "reset.csv", "index.parquet", "predictions.parquet"):
            load_manifest("manifest", str(tmp_path / name), object_name="x")


@pytest.mark.parametrize("labels", [pa.array([0, 1, None], pa.int64()), pa.array([False, True, None])])
def test_manifest_parquet_in_a_folder(tmp_path, labels):
    touch(tmp_path, "0.png")
    paths = pa.array(["0.png", "1.png", "2.png"]).dictionary_encode()
    parquet.write_table(pa.table({"image_path": paths, "gt_label": labels}), tmp_path / "manifest.parquet")
    table = load_manifest("manifest", str(tmp_path), object_name="bolt")
    assert table["gt_label"].to_pylist() == [0, 1, None]
    assert table["class_name"].to_pylist() == ["bolt"] * 3
    assert table["split"].null_count == 3
    assert table["file_size"].to_pylist() == [7, None, None]


def test_a_split_of_images_without_splits_is_refused(tmp_path):
    touch(tmp_path, "a.png")
    for split in ("test", "all", None):
        assert len(load_manifest("folder", str(tmp_path), object_name="x", split=split)) == 1
    with pytest.raises(UsageError, match=r"No image of split 'train' in .*no splits; leave --split out"):
        load_manifest("folder", str(tmp_path), object_name="x", split="train")


def test_manifest_row_without_split_is_left_out_aloud(tmp_path):
    root = write_manifest(tmp_path / "m.csv", "image_path,split\na.png,test\nb.png,\n")
    with pytest.warns(UserWarning, match="1 row of .* without a split"):
        assert load_manifest("manifest", root, object_name="x")["image_id"].to_pylist() == ["a.png"]


def test_equal_rows_collapse_with_a_warning(tmp_path):
    root = write_manifest(tmp_path / "m.csv", "image_path\nb.png\na.png\nb.png\n./b.png\nc.png\n")
    with pytest.warns(UserWarning, match="2 repeated rows "):
        table = load_manifest("manifest", root, object_name="x")
    assert table["image_id"].to_pylist() == ["b.png", "a.png", "c.png"]


@pytest.mark.parametrize(
    ("column", "one", "other", "said"),
    [
        ("gt_label", "0", "1", "gt_label 0 and 1"),
        ("gt_label", "", "1", "gt_label none and 1"),
        ("mask_path", "m.png", "", "mask_path '{root}/m.png' and none"),
        ("foreground_path", "f.png", "g.png", "foreground_path '{root}/f.png' and '{root}/g.png'"),
        ("class_name", "bolt", "nut", "class_name 'bolt' and 'nut'"),
        ("category", "pcb1", "pcb2", "category 'pcb1' and 'pcb2'"),
        ("split", "train", "test", "split 'train' and 'test'"),
    ],
)
def test_rows_of_one_image_that_differ_are_refused(tmp_path, column, one, other, said):
    rows = ("a.png,", f"b.png,{one}", "c.png,", f"b.png,{one}", f"b.png,{other}", f"b.png,{other}", "c.png,")
    root = write_manifest(tmp_path / "m.csv", "\n".join([f"image_path,{column}", *rows]))
    with pytest.raises(UsageError, match="^1 image is listed by several rows that differ") as caught:
        load_manifest("manifest", root, object_name="x", split="all")
    assert str(caught.value).endswith("First five:\n  'b.png': " + said.format(root=tmp_path))


def test_rows_that_differ_list_the_first_five_and_all_that_differs(tmp_path):
    rows = [f"{index % 7}.png,{index // 7},class {index // 7}" for index in range(14)]
    root = write_manifest(tmp_path / "m.csv", "\n".join(["image_path,gt_label,class_name", *rows]))
    with pytest.raises(UsageError, match="^7 images are listed") as caught:
        load_manifest("manifest", root)
    lines = str(caught.value).splitlines()[1:]
    assert lines == [f"  '{index}.png': class_name 'class 0' and 'class 1', gt_label 0 and 1" for index in range(5)]


def test_rows_that_differ_in_size_collapse(tmp_path):
    root = write_manifest(tmp_path / "m.csv", "image_path,file_size,gt_label\na.png,1,\na.png,2,\n")
    with pytest.warns(UserWarning, match="1 repeated row "):
        assert load_manifest("manifest", root, object_name="x")["file_size"].to_pylist() == [1]


def test_one_id_for_two_paths_lists_the_first_five(tmp_path):
    rows = "".join(f"{index}.png,id{index % 7}\n" for index in range(14))
    root = write_manifest(tmp_path / "m.csv", "image_path,image_id\n" + rows)
    with pytest.raises(UsageError, match="7 image_id values stand for several paths") as caught:
        load_manifest("manifest", root, object_name="x")
    assert str(caught.value).count("\n") == 5
    assert f"'id0': '{tmp_path}/0.png', '{tmp_path}/7.png'" in str(caught.value)


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/hostname.png", "s3://bucket/x.png", ".."])
def test_manifest_paths_are_confined(tmp_path, path):
    root = write_manifest(tmp_path / "m.csv", f"image_path\na.png\n{path}\n")
    with pytest.raises(UsageError, match=r"^1 path in column 'image_path' leaves the root .*--allow-outside-root"):
        load_manifest("manifest", root, object_name="x")


def test_manifest_may_leave_the_root_when_allowed(tmp_path):
    touch(tmp_path, "x.png", "in/a.png")
    text = f"image_path\na.png\n../x.png\n{tmp_path}/in/../x.png\n"
    root = write_manifest(tmp_path / "in" / "m.csv", text)
    with pytest.raises(UsageError, match="2 paths"):
        load_manifest("manifest", root, object_name="x")
    with pytest.warns(UserWarning, match="1 repeated"):
        table = load_manifest("manifest", root, object_name="x", allow_outside_root=True)
    assert table["image_id"].to_pylist() == ["a.png", "../x.png"]
    assert table["image_path"].to_pylist() == [f"{tmp_path}/in/a.png", f"{tmp_path}/x.png"]
    assert table["file_size"].to_pylist() == [7, 7]


def test_manifest_links_are_confined(tmp_path):
    touch(tmp_path, "out/x.png", "in/a.png")
    (tmp_path / "in" / "l.png").symlink_to(tmp_path / "out" / "x.png")
    (tmp_path / "in" / "d").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "ok.png").symlink_to(tmp_path / "in" / "a.png")
    root = write_manifest(tmp_path / "in" / "m.csv", "image_path\na.png\nok.png\nl.png\nd/x.png\n")
    with pytest.raises(UsageError, match="2 paths are links that leave"):
        load_manifest("manifest", root, object_name="x")
    table = load_manifest("manifest", root, object_name="x", allow_outside_root=True)
    assert table["file_size"].to_pylist() == [7] * 4


def test_a_fifo_or_folder_has_no_size(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dir.png").mkdir()
    root = write_manifest(tmp_path / "m.csv", "image_path\npipe.png\ndir.png\n")
    assert load_manifest("manifest", root, object_name="x")["file_size"].to_pylist() == [None, None]
    touch(tmp_path, "a.png")
    assert load_manifest("folder", str(tmp_path), object_name="x")["image_id"].to_pylist() == ["a.png"]


def test_large_manifest_is_not_a_row_loop(tmp_path):
    count = 200_000
    table = pa.table(
        {
            "image_path": [f"part {index // 1000}/{index}.png" for index in range(count)],
            "category": ["gear" if index % 2 else "pcb1" for index in range(count)],
            "gt_label": ["1"] * count,
        }
    )
    csv.write_csv(table, tmp_path / "manifest.csv")
    read = load_manifest("manifest", str(tmp_path))
    assert len(read) == count
    assert read["image_path"][-1].as_py() == f"{tmp_path}/part 199/199999.png"
    assert read["class_name"][0].as_py() == "printed circuit board"


def test_given_sizes_are_taken_and_the_others_looked_up(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png")
    lines = ("a.png,65536,1767225600000000000", "b.png,,123", "c.png,0,", "gone.png,9,8", "lost.png,,")
    root = write_manifest(tmp_path / "m.csv", "\n".join(["image_path,file_size,file_mtime", *lines]))
    table = load_manifest("manifest", root, object_name="x")
    assert table.schema == MANIFEST_SCHEMA
    assert table["file_size"].to_pylist() == [65536, 7, 0, 9, None]
    found = (tmp_path / "b.png").stat().st_mtime_ns
    assert table["file_mtime"].to_pylist() == [1767225600000000000, found, None, 8, None]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint32(), pa.float64(), pa.string()])
def test_sizes_of_any_column_type(tmp_path, kind):
    touch(tmp_path, "b.png")
    sizes = pa.array([65536, None], pa.int64()).cast(kind)
    parquet.write_table(pa.table({"image_path": ["a.png", "b.png"], "file_size": sizes}), tmp_path / "manifest.parquet")
    table = load_manifest("manifest", str(tmp_path), object_name="x")
    assert table["file_size"].to_pylist() == [65536, 7]
    assert table["file_mtime"].null_count == 1


def test_a_list_of_a_bucket_with_sizes_asks_no_bucket(tmp_path):
    text = "image_path,image_id,file_size\ns3://no-such-bucket/a b.png,one,65536.0\n"
    root = write_manifest(tmp_path / "m.csv", text)
    table = load_manifest("manifest", root, object_name="x", allow_outside_root=True)
    assert table["image_path"].to_pylist() == ["s3://no-such-bucket/a b.png"]
    assert table["file_size"].to_pylist() == [65536]


@pytest.mark.parametrize("column", ["image_path", "mask_path", "foreground_path"])
def test_given_sizes_let_no_link_leave_the_root(tmp_path, column):
    touch(tmp_path, "out/x.png", "in/a.png")
    (tmp_path / "in" / "l.png").symlink_to(tmp_path / "out" / "x.png")
    paths = {"image_path": "a.png", column: "l.png"}
    text = f"{','.join(paths)},file_size\n{','.join(paths.values())},7\n"
    root = write_manifest(tmp_path / "in" / "m.csv", text)
    expect("^1 path is a link that leaves the root .*--allow-outside-root", "manifest", root, object_name="x")
    assert len(load_manifest("manifest", root, object_name="x", allow_outside_root=True)) == 1


@pytest.mark.parametrize("value", ["-1", "1.5", "7 kB", "1e3", "nan", "9223372036854775808", "2026-01-01 00:00:00"])
@pytest.mark.parametrize(("column", "unit"), [("file_size", "bytes"), ("file_mtime", "nanoseconds since the epoch")])
def test_sizes_and_times_that_are_no_whole_numbers(tmp_path, column, unit, value):
    root = write_manifest(tmp_path / "m.csv", f"image_path,{column}\na.png,{value}\nb.png,12\nc.png,\n")
    message = f"^1 value in column '{column}' of .* is not {unit}: '{value}'. Expected whole .*leave the column out"
    expect(message, "manifest", root, object_name="x")


def test_paths_are_read_in_slices_of_any_size(tmp_path, monkeypatch):
    rows = "".join(f"../{index}.png\n" if index % 2 else f"./{index}.png\n" for index in range(14))
    root = write_manifest(tmp_path / "m.csv", "image_path\n" + rows)
    whole = load_manifest("manifest", root, object_name="x", allow_outside_root=True)
    monkeypatch.setattr("zsad.datasets.paths._SLICE", 3)
    monkeypatch.setattr("zsad.id_hashes._SLICE", 3)
    assert load_manifest("manifest", root, object_name="x", allow_outside_root=True) == whole
    with pytest.raises(UsageError, match="7 paths in column 'image_path' leave the root") as caught:
        load_manifest("manifest", root, object_name="x")
    assert str(caught.value).endswith("\n".join(f"  '../{index}.png'" for index in (1, 3, 5, 7, 9)))


def test_two_ids_with_one_hash_are_two_images(tmp_path, monkeypatch):
    monkeypatch.setattr("zsad.datasets.manifest.hash_ids", lambda texts: np.zeros(len(texts), np.uint64))
    root = write_manifest(tmp_path / "m.csv", "image_path\na.png\nb.png\n")
    assert load_manifest("manifest", root, object_name="x")["image_id"].to_pylist() == ["a.png", "b.png"]


def expect(message: str, dataset: str, root: Path | str, **options: object) -> None:
    with pytest.raises(UsageError, match=message):
        load_manifest(dataset, str(root), **options)  # type: ignore[arg-type]


def test_no_category_is_called_as_the_row_of_means(tmp_path):
    touch(tmp_path, "mean/test/good/0.png", "nut/test/good/0.png")
    expect("A category of .* is named 'mean'.* rename it", "mvtec", tmp_path)
    assert len(load_manifest("mvtec", str(tmp_path), categories=["nut"])) == 1


def test_a_noun_for_no_category_is_named(tmp_path, recwarn):
    touch(tmp_path, "gear/test/good/0.png", "nut/test/good/0.png")
    load_manifest("mvtec", str(tmp_path), categories=["nut"], class_names={"gear": "cog"})
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match=r"class_names names 'gaer', which is not in .*: its categories are gear, nut\."
    ):
        table = load_manifest("mvtec", str(tmp_path), class_names={"gaer": "cog", "nut": "hex nut"})
    assert set(table["class_name"].to_pylist()) == {"gear", "hex nut"}
    with pytest.warns(UserWarning, match=r"'gear', which is not in .*: it has no categories\."):
        load_manifest("folder", str(tmp_path), object_name="part", class_names={"gear": "cog"})


@pytest.mark.parametrize(
    "mask", ["nut/ground_truth/bent/0_mask.png", "ground_truth/bent/0.png", "nut/Data/Masks/0.png"]
)
def test_a_folder_that_holds_masks_may_be_another_layout(tmp_path, mask):
    touch(tmp_path, "nut/test/good/0.png", "notground_truth/a.png", mask)
    with pytest.warns(
        UserWarning, match=f"1 image is in folders of masks, e.g. '{mask}', as datasets of --dataset mvtec"
    ):
        assert len(load_manifest("folder", str(tmp_path), object_name="nut")) == 3


@pytest.mark.parametrize("name", ["list.xlsx", "LIST.XLS", "list.ods"])
def test_a_spreadsheet_is_no_manifest(tmp_path, name):
    touch(tmp_path, name)
    expect("is a spreadsheet. Expected a CSV file; save it as 'CSV UTF-8", "manifest", tmp_path / name)


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0"])
def test_a_spreadsheet_is_told_by_its_content_too(tmp_path, name, head):
    (tmp_path / name).write_bytes(head + bytes(99))
    expect("is a spreadsheet or an archive.*save it as 'CSV UTF-8", "manifest", tmp_path / name)


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf_16_is_named(tmp_path, mark, encoding):
    (tmp_path / "m.csv").write_bytes(mark + "image_path,gt_label\na.png,0\n".encode(encoding))
    expect("m.csv' is UTF-16. Expected a CSV file; save it as 'CSV UTF-8", "manifest", tmp_path / "m.csv")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_columns_are_separated_by_commas_semicolons_or_tabs(tmp_path, separator, mark):
    touch(tmp_path, "a, b;c.png", "d.png")
    rows = [
        ("image_path", "class_name", "gt_label", '"note, free"'),
        ('"a, b;c.png"', "nut", "1", ""),
        ("d.png", "bolt", "", '"1, 2; 3"'),
    ]
    (tmp_path / "m.csv").write_text(mark + "\n".join(map(separator.join, rows)) + "\n", "utf-8")
    with pytest.warns(UserWarning, match="'note, free'"):
        found = load_manifest("manifest", str(tmp_path / "m.csv"))
    assert found["image_path"].to_pylist() == [str(tmp_path / "a, b;c.png"), str(tmp_path / "d.png")]
    assert found["class_name"].to_pylist() == ["nut", "bolt"]
    assert found["gt_label"].to_pylist() == [1, None]


@pytest.mark.parametrize("before", [1, 200_000])
def test_a_row_of_too_many_cells_is_named(tmp_path, before):
    (tmp_path / "m.csv").write_text("image_path,class_name\n" + "a.png,nut\n" * before + "b.png,nut,bolt\n")
    expect(f"Row #{before + 2}: Expected 2 columns, got 3: b.png,nut,bolt", "manifest", tmp_path / "m.csv")


@pytest.mark.parametrize("dataset", ["visa", "mvtec", "folder"])
def test_missing_root_or_file_as_root(tmp_path, dataset):
    options = {"object_name": "x"} if dataset == "folder" else {}
    expect("No folder at .*check --root", dataset, tmp_path / "gone", **options)
    touch(tmp_path, "a.png")
    expect("is a file. Expected the dataset's root folder", dataset, tmp_path / "a.png", **options)


def test_messages_of_folder(tmp_path):
    expect("Give it with --object", "folder", tmp_path)
    expect("Give it with --object", "folder", tmp_path, object_name="  ")
    expect(r"No image in .*\(0 other files\)", "folder", tmp_path, object_name="x")
    touch(tmp_path, "a.txt")
    expect(r"No image in .*\(1 other file\)", "folder", tmp_path, object_name="x")
    touch(tmp_path, "a.png")
    expect("It has no categories", "folder", tmp_path, object_name="x", categories=["c"])
    expect("limit is 0", "folder", tmp_path, object_name="x", limit=0)
    expect("Unknown dataset 'btad'. Expected one of visa, mvtec, folder, manifest", "btad", tmp_path)


def test_messages_of_layouts(tmp_path):
    expect(r"split_csv/1cls.csv \(original\), meta.json, or .*found an empty folder", "visa", tmp_path)
    touch(tmp_path, "bottle/0.png")
    expect("Expected one of VisA's layouts.*found bottle", "visa", tmp_path)
    expect("Expected MVTec AD's layout.*found bottle", "mvtec", tmp_path)
    touch(tmp_path, "bottle/test/good/0.png", "cable/train/good/0.png")
    expect("object name .*--set prompts.class_names", "mvtec", tmp_path, object_name="x")
    expect("No category 'nut' in .* It has: bottle, cable", "mvtec", tmp_path, categories=["bottle", "nut"])
    expect("Category 'cable' .*no image of split 'test'.*These have: bottle", "mvtec", tmp_path)
    expect("No image of split 'val' in .* It has: test, train", "mvtec", tmp_path, split="val")
    assert len(load_manifest("mvtec", str(tmp_path), categories=["bottle"])) == 1


def test_messages_of_visa_csv_and_meta(tmp_path):
    path = tmp_path / "split_csv" / "1cls.csv"
    path.parent.mkdir()
    path.write_text("object|split|label|image|mask\n")
    expect("no column 'object', 'split'.*found 'object.split.label.image.mask'", "visa", tmp_path)
    path.write_text("object,split,label,image,mask\n")
    expect("lists no image", "visa", tmp_path)
    path.write_bytes(b"")
    expect("Cannot read .*1cls.csv", "visa", tmp_path)
    path.write_bytes(b"object,split,label,image,mask\n\xff\xfe,test,normal,a.png,\n")
    expect("Cannot read .*UTF-8", "visa", tmp_path)
    path.write_text("object,split,label,image,mask\na,test,broken,a.png,\n")
    expect("Unknown labels .*'broken'. Expected normal, good, ok", "visa", tmp_path)
    path.write_text("object,split,label,image,mask\na,test,normal,a.png,\na,test,normal,,\n")
    expect("Row 2 of .* has no image", "visa", tmp_path)
    path.write_text("object,split,label,image,mask\na,test,anomaly,a.png,../m.png\n")
    expect("column 'mask' leaves the root", "visa", tmp_path)
    path.unlink()
    for text in ("{", "[]", '{"test": {"a": [{}]}}', '{"test": [1]}'):
        (tmp_path / "meta.json").write_text(text)
        expect("Cannot read .*meta.json.*Expected {split", "visa", tmp_path)
    (tmp_path / "meta.json").write_text("{}")
    expect("lists no image", "visa", tmp_path)


def test_messages_of_manifest(tmp_path):
    expect("No manifest at .*a column image_path", "manifest", tmp_path)
    expect("No manifest at", "manifest", tmp_path / "gone.csv")
    path = tmp_path / "m.csv"
    path.write_text("path\na.png\n")
    expect("no column 'image_path'.*found 'path'", "manifest", path)
    path.write_text("image_path,category\na.png,c\n,c\n")
    expect(r"1 row of .* without image_path \(row 2\)", "manifest", path)
    path.write_text("image_path\na.png\n")
    expect(r"1 row of .* without class_name .*--object", "manifest", path)
    path.write_text("image_path,gt_label\na.png,2\nb.png,7\n")
    expect(
        "Unknown labels in .*'2', '7'.*good, ok, pass or 0;.* nok, ng, fail or 1;", "manifest", path, object_name="x"
    )
    path.write_text("image_path,class_name,category\na.png,disc,\nb.png,,candle\n")
    expect("'x'.* every row .* Leave --object out", "manifest", path, object_name="x")
    path.write_text("image_path,class_name\na.png,disc\nb.png,\n")
    assert load_manifest("manifest", str(path), object_name="x")["class_name"].to_pylist() == ["disc", "x"]
    (tmp_path / "m.parquet").write_bytes(b"not parquet")
    expect("Cannot read .*Parquet", "manifest", tmp_path / "m.parquet")
