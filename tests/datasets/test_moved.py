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
    rows = table(("a.png", "/old/a.png", None), ("b.png", "/new/b.png", None))
    assert paths(relocate(rows, str(tmp_path), "/new")) == [(f"{tmp_path}/a.png", None), (f"{tmp_path}/b.png", None)]


def test_ids_of_a_manifest_of_its_own_need_the_runs_root(tmp_path):
    rows = table(("part 1", "/data/set/in/1.png", "/data/set/m/1.png"), ("part 2", "/elsewhere/2.png", None))
    expected = [(f"{tmp_path}/in/1.png", f"{tmp_path}/m/1.png"), ("/elsewhere/2.png", None)]
    assert paths(relocate(rows, str(tmp_path), "/data/set")) == expected
    assert paths(relocate(rows, str(tmp_path), "/data/set/list.csv")) == expected
    (tmp_path / "list.csv").write_text("image_path\n")
    assert paths(relocate(rows, str(tmp_path / "list.csv"), "/data/set/list.csv")) == expected
    with pytest.raises(UsageError, match=r"None of the 2 images lay in a folder that --root .*'/data/set/in/1\.png'"):
        relocate(rows, str(tmp_path))


def test_from_a_bucket_to_a_disk_and_back(tmp_path):
    rows = table(("a b/1#.png", "s3://bucket/set/a%20b/1%23.png?region=x", "s3://bucket/set/m%20/1.png?region=x"))
    local = relocate(rows, str(tmp_path), "s3://bucket/set?region=x")
    assert paths(local) == [(f"{tmp_path}/a b/1#.png", f"{tmp_path}/m /1.png")]
    assert paths(relocate(local, "s3://bucket/set?region=x", str(tmp_path))) == paths(rows)


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="No manifest at .*gone.csv"):
        relocate(table(("a.png", "/x/a.png", None)), str(tmp_path / "gone.csv"))
