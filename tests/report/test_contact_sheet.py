"""Pictures of a run: the most anomalous image of each kind, on one scale, with what is missing said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.conftest import HEIGHT, WIDTH
from zsad.errors import UsageError
from zsad.report.contact_sheet import write_pictures
from zsad.storage import RunInfo, read_predictions, write_run


@pytest.fixture(scope="module")
def output(make_run):
    return make_run(9, evaluated=False)


def test_one_picture_per_kind_and_one_sheet(output):
    overview = Path(write_pictures(output))
    assert overview == Path(output) / "pictures" / "overview.png"
    with Image.open(overview) as sheet:
        assert sheet.width == 1600
    kinds = read_predictions(output, ["category"])["category"].nunique()
    pictures = sorted(path.name for path in overview.parent.glob("*.jpg"))
    assert len(pictures) == kinds == 3 and "candle.jpg" in pictures
    # A category is a name from outside: it leads nowhere else.
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") for name in pictures
    )


def test_the_pictures_are_the_same_again(output):
    first = Path(write_pictures(output)).read_bytes()
    assert Path(write_pictures(output)).read_bytes() == first


def test_the_highest_score_of_a_kind_is_shown(output, monkeypatch):
    shown = []
    read = write_pictures.__globals__["read_anomaly_map"]
    monkeypatch.setitem(
        write_pictures.__globals__, "read_anomaly_map", lambda out, name: shown.append(name) or read(out, name)
    )
    write_pictures(output)
    rows = read_predictions(output)
    best = rows[rows["status"] == "ok"].sort_values("pred_score").groupby("category").tail(1)
    assert sorted(shown) == sorted(best["image_id"])


def test_a_missing_photograph_leaves_the_map_and_says_so(make_run):
    output = make_run(3, evaluated=False)
    before = np.asarray(Image.open(write_pictures(output)))
    for path in Path(output).parent.glob("*.png"):
        path.unlink()
    after = np.asarray(Image.open(write_pictures(output)))
    assert after.shape[1] == 1600 and not np.array_equal(after, before)


@pytest.mark.parametrize(("images", "brightness"), [({}, 16), ({"white_level": 4095.0}, 255)])
def test_a_photograph_is_decoded_as_the_run_decoded_it(make_run, images, brightness):
    output = make_run(1, evaluated=False)
    photograph = Path(read_predictions(output).query("status == 'ok'")["image_path"].iloc[0])
    Image.fromarray(np.full((HEIGHT, WIDTH), 4095, np.uint16)).save(photograph)
    write_run(output, RunInfo("f", {"images": images}, {}))
    with Image.open(Path(write_pictures(output)).parent / "candle.jpg") as picture:
        # In the middle of the left half.
        assert np.asarray(picture)[300, 400].tolist() == pytest.approx([brightness] * 3, abs=2)


def test_a_run_without_scores_is_refused(tmp_path):
    write_run(str(tmp_path / "out"), RunInfo("f", {}, {}, {}, {}, {"trained": True}, {}, {}))
    with pytest.raises(UsageError, match="zsad score"):
        write_pictures(str(tmp_path / "out"))
