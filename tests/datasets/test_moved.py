"""A dataset that lies elsewhere by now is found there."""

import pandas as pd
import pytest

from zsad.datasets.moved import relocate
from zsad.errors import UsageError


def table(*rows):
    return pd.DataFrame(rows, columns=["image_id", "image_path", "mask_path"], index=[7 * i for i in range(len(rows))])


def paths(frame):
    rows = frame[["image_path", "mask_path"]].itertuples(index=False)
    return [tuple(None if pd.isna(path) else path for path in row) for row in rows]


def test_image_and_mask_move_with_the_root_and_the_rest_stays(tmp_path):
    before = table(
        ("a/1.png", "/data/set/a/1.png", "/data/set/masks/1.png"),
        ("2.png", "/data/set/2.png", None),
        ("3.png", "/other/place/3 x.png", "/other/3.png"),
        ("4.png", None, None),
    )
    now = relocate(before, str(tmp_path))
    assert paths(now) == [
        (f"{tmp_path}/a/1.png", f"{tmp_path}/masks/1.png"),
        (f"{tmp_path}/2.png", None),
        ("/other/place/3 x.png", "/other/3.png"),
        (None, None),
    ]
    assert list(now.index) == list(before.index) and list(now.columns) == list(before.columns)
    assert now.dtypes.equals(before.dtypes)
    assert before["image_path"].iloc[1] == "/data/set/2.png"


def test_a_root_of_a_scored_folder_may_have_been_any(tmp_path):
    """After a run that was resumed from another place, the rows come from both."""
    rows = table(("a.png", "/old/a.png", None), ("b.png", "/new/b.png", None), ("c.png", "/new/old/c.png", None))
    expected = [(f"{tmp_path}/{name}.png", None) for name in "abc"]
    assert paths(relocate(rows, str(tmp_path), {"root": "/new", "layout": "folder"})) == expected


def test_ids_of_a_manifest_of_its_own_need_the_runs_root(tmp_path):
    # The ids are any names, those of the files without their folders too.
    rows = table(
        ("part 1", "/data/set/in/1.png", "/data/set/m/1.png"),
        ("2.png", "/data/set/in/2.png", "/data/set/m/2.png"),
        ("part 3", "/elsewhere/3.png", None),
    )
    expected = [(f"{tmp_path}/in/{n}.png", f"{tmp_path}/m/{n}.png") for n in (1, 2)] + [("/elsewhere/3.png", None)]
    (tmp_path / "list.csv").write_text("image_path\n")
    for root in ("/data/set", "/data/set/list.csv"):
        for now in (tmp_path, tmp_path / "list.csv"):
            assert paths(relocate(rows, str(now), {"root": root, "layout": "manifest"})) == expected
    with pytest.raises(UsageError, match=r"None of the 1 images lay in a folder that --root .*'/data/set/in/1\.png'"):
        relocate(rows.head(1), str(tmp_path))


def test_a_folder_may_be_called_like_a_table(tmp_path):
    rows = table(("part 1", "/data/set.csv/1.png", None))
    (tmp_path / "set.csv").mkdir()
    now = relocate(rows, str(tmp_path / "set.csv"), {"root": "/data/set.csv", "layout": "manifest"})
    assert paths(now) == [(f"{tmp_path}/set.csv/1.png", None)]


def test_from_a_bucket_to_a_disk(tmp_path):
    query = "?endpoint_override=http://host:9000"
    rows = table(("a b/1#.png", f"s3://bucket/set/a%20b/1%23.png{query}", f"s3://bucket/set/m%20/1.png{query}"))
    expected = [(f"{tmp_path}/a b/1#.png", f"{tmp_path}/m /1.png")]
    assert paths(relocate(rows, str(tmp_path))) == expected
    own = rows.assign(image_id="part 1")
    assert paths(relocate(own, str(tmp_path), {"root": f"s3://bucket/set{query}", "layout": "manifest"})) == expected
    given = {"root": f"s3://bucket/set/list.csv{query}", "layout": "manifest"}
    assert paths(relocate(own, str(tmp_path), given)) == expected


def test_a_root_that_is_not_there_is_named(tmp_path):
    (tmp_path / "photo.png").touch()
    for name, words in (("gone.csv", "No folder at"), ("gone", "No folder at"), ("photo.png", "is a file")):
        with pytest.raises(UsageError, match=words):
            relocate(table(("a.png", "/x/a.png", None)), str(tmp_path / name))
