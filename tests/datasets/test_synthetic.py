"""Properties that the synthetic set promises."""

import hashlib

import cv2
import numpy as np
import pytest

from zsad.datasets import load_manifest, noun_for
from zsad.datasets.synthetic import (
    DEFECTS,
    KINDS_A,
    KINDS_B,
    Sample,
    kind_named,
    render,
    sample_rng,
    write_synthetic_visa,
)
from zsad.datasets.synthetic.defects import SURFACE_DEFECTS
from zsad.errors import UsageError
from zsad.images import decode, decode_mask

SIDE = 420


def sample(kind: str, number: int, anomalous: bool) -> Sample:
    return render(kind, sample_rng(kind, number, 11, anomalous), anomalous, long_side=SIDE)


def digest(picture: Sample) -> str:
    return hashlib.sha256(picture.image.tobytes() + picture.mask.tobytes() + picture.foreground.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def anomalous() -> dict[str, list[Sample]]:
    return {kind: [sample(kind, number, True) for number in range(4)] for kind in KINDS_B}


def test_kinds_a_and_b_are_many_and_disjoint():
    assert len(set(KINDS_A)) == len(KINDS_A) >= 12
    assert len(set(KINDS_B)) == len(KINDS_B) >= 12
    words_a = {word for kind in KINDS_A for word in kind.split("_")}
    words_b = {word for kind in KINDS_B for word in kind.split("_")}
    assert not words_a & words_b
    builders = {kind_named(kind).build for kind in (*KINDS_A, *KINDS_B)}
    assert len(builders) == len(KINDS_A) + len(KINDS_B)
    assert noun_for("metal_washer") == kind_named("metal_washer").noun == "metal washer"


@pytest.mark.parametrize("kind", [*KINDS_A, *KINDS_B])
def test_every_kind_renders_and_repeats(kind):
    first, again = sample(kind, 0, True), sample(kind, 0, True)
    assert digest(first) == digest(again)
    assert first.jpeg == again.jpeg
    assert first.image.dtype == first.mask.dtype == np.uint8
    assert first.image.shape == (*first.mask.shape, 3)
    assert max(first.mask.shape) == SIDE
    assert first.foreground.shape == first.mask.shape
    assert np.array_equal(decode(first.jpeg, 10**8), first.image)
    assert first.noun == noun_for(kind)
    normal = sample(kind, 0, False)
    assert not normal.mask.any()
    assert normal.defects == ()
    assert 0.02 < normal.foreground.mean() < 0.85


def test_no_two_pictures_are_alike(anomalous):
    digests = [digest(picture) for pictures in anomalous.values() for picture in pictures]
    digests += [digest(sample(kind, number, False)) for kind in KINDS_B[:4] for number in range(3)]
    assert len(set(digests)) == len(digests)


def test_masks_name_their_defects_and_lie_on_the_objects(anomalous):
    for pictures in anomalous.values():
        for picture in pictures:
            ids = set(np.unique(picture.mask).tolist()) - {0}
            assert ids <= {DEFECTS.index(name) + 1 for name in picture.defects}
            assert ids
            assert np.count_nonzero(picture.mask) >= 12
            near = cv2.dilate(picture.foreground.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            if not {"break", "bend", "hole", "misplaced"} & set(picture.defects):
                assert near[picture.mask > 0].mean() > 0.95


def test_at_least_a_third_of_the_defects_is_small(anomalous):
    areas = np.array([(picture.mask > 0).mean() for pictures in anomalous.values() for picture in pictures])
    assert (areas < 0.005).mean() >= 1 / 3
    assert (areas > 0.005).mean() >= 0.1


def test_defects_are_no_constant_colour(anomalous):
    spreads = [
        picture.image[picture.mask > 0].astype(float).std(0).mean()
        for pictures in anomalous.values()
        for picture in pictures
    ]
    assert min(spreads) > 2
    assert np.median(spreads) > 8


def test_shadows_are_no_foreground():
    """Beside the objects the table is darker on one side than on the other, and that is background."""
    contrast = []
    for number in range(6):
        picture = sample("metal_washer", number, False)
        solid = picture.foreground.astype(np.uint8)
        ring = (cv2.dilate(solid, np.ones((13, 13), np.uint8)) > 0) & (
            cv2.dilate(solid, np.ones((5, 5), np.uint8)) == 0
        )
        grey = picture.image.mean(-1)
        low, high = np.percentile(grey[ring], [10, 90])
        contrast.append((high - low) / max(high, 1))
    assert np.mean(contrast) > 0.2


def test_sizes_vary_from_400_to_1600():
    rngs = [sample_rng("zipper", number, 3, False) for number in range(12)]
    sides = [max(render("zipper", rng, False).mask.shape) for rng in rngs]
    assert min(sides) >= 400
    assert max(sides) <= 1600
    assert max(sides) > 1.8 * min(sides)


def test_strips_have_more_than_twenty_parts():
    for kind in ("led_strip", "zipper", "terminal_block"):
        surface = kind_named(kind).build(np.random.default_rng(0), np.random.default_rng(0), 600)
        assert len(surface.stamps) > 20


def test_written_set_is_visa(tmp_path):
    root = write_synthetic_visa(
        tmp_path / "set", kinds=["zipper", "pill_blister"], normal=2, anomalous=1, train=1, seed=5
    )
    table = load_manifest("visa", str(root))
    assert table["image_id"].to_pylist()[:3] == [
        "zipper/Data/Images/Normal/000.JPG",
        "zipper/Data/Images/Normal/001.JPG",
        "zipper/Data/Images/Anomaly/000.JPG",
    ]
    assert table["gt_label"].to_pylist() == [0, 0, 1, 0, 0, 1]
    assert set(table["class_name"].to_pylist()) == {"zipper", "pill blister"}
    assert table["foreground_path"].null_count == 6
    assert len(load_manifest("visa", str(root), split="train")) == 2
    row = table.slice(2, 1).to_pylist()[0]
    expected = render("zipper", sample_rng("zipper", 0, 5, True), True)
    with open(row["mask_path"], "rb") as file:
        assert np.array_equal(decode_mask(file.read(), 10**8), expected.mask > 0)
    with open(row["image_path"], "rb") as file:
        assert file.read() == expected.jpeg
    truth = root / "zipper" / "Data" / "Foreground" / "Anomaly" / "000.png"
    assert np.array_equal(decode_mask(truth.read_bytes(), 10**8), expected.foreground)
    ids = np.unique(cv2.imread(row["mask_path"], cv2.IMREAD_UNCHANGED))
    assert ids.max() <= len(DEFECTS)


def test_several_workers_write_the_same_files(tmp_path):
    options = {"kinds": ["led_strip"], "normal": 1, "anomalous": 1, "seed": 2}
    one = write_synthetic_visa(tmp_path / "one", **options)
    two = write_synthetic_visa(tmp_path / "two", workers=2, **options)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 6
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)


def test_messages(tmp_path):
    with pytest.raises(UsageError, match="Unknown kind 'spoon'. Expected one of memory_module"):
        write_synthetic_visa(tmp_path / "x", kinds=["spoon"])
    with pytest.raises(UsageError, match="Cannot write 0 normal"):
        write_synthetic_visa(tmp_path / "x", normal=0, anomalous=0)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", sorted(SURFACE_DEFECTS))
def test_a_defect_changes_the_surface_only_where_it_says(name):
    for number in range(3):
        rng = np.random.default_rng(number)
        before = kind_named("biscuit").build(np.random.default_rng(1), rng, 200)
        after = before.copy()
        touched = SURFACE_DEFECTS[name](after, rng, 60.0, 0.8)
        assert touched.shape == before.shape
        assert 12 <= np.count_nonzero(touched > 0.4) < 0.8 * np.count_nonzero(before.cover > 0.5)
        changed = np.abs(after.colour - before.colour).max(-1) + np.abs(after.cover - before.cover) > 0.1
        changed &= np.maximum(before.cover, after.cover) > 0.5
        near = cv2.dilate((touched > 0.05).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert not (changed & ~near).any()


def test_nothing_is_left_of_the_outline_where_a_piece_is_broken_off():
    rng = np.random.default_rng(4)
    surface = kind_named("biscuit").build(np.random.default_rng(1), rng, 200)
    SURFACE_DEFECTS["break"](surface, rng, 90.0, 1.0)
    solid = cv2.dilate((surface.cover >= 0.9).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert np.count_nonzero(surface.cover[~solid] > 0.05) < 20  # crumbs of the ragged edge, not a line
