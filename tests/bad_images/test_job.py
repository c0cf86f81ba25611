"""The whole corpus through the job: one row per file, and no file costs another its score."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.bad_images.conftest import SMALL
from tests.bad_images.corpus import CASES, PICTURE
from zsad import Detector, load_config
from zsad.pipeline.score import ScoreOptions, score

# Without SAM, which sees one image at a time and so cannot mix them up.
SETTINGS = (*SMALL, "foreground.source=dis")


@pytest.fixture(scope="module")
def job(ray_local, corpus, tmp_path_factory):
    names = [case.name for case in CASES]
    parquet.write_table(pa.table({"image_path": [*names, names[0]]}), corpus / "all.parquet")
    output = tmp_path_factory.mktemp("job") / "out"
    options = ScoreOptions(
        dataset="manifest",
        root=str(corpus / "all.parquet"),
        output=str(output),
        preset="mini",
        object_name="disc",
        overrides=(*SETTINGS, "runtime.topology=fused", "runtime.fused.size=1"),
    )
    with pytest.warns(UserWarning, match="1 repeated row "):
        summary = score(options, io.StringIO())
    return output, summary


def test_every_file_is_one_row(job):
    output, summary = job
    rows = pd.read_parquet(output / "predictions")
    assert sorted(rows["image_id"]) == sorted(case.name for case in CASES)
    failing = sum(case.kind is not None for case in CASES)
    assert (summary.images, summary.errors, summary.exit_code) == (len(CASES), failing, 3)
    assert (output / "_SUCCESS").exists()


def test_bad_files_say_stage_type_and_reason(job):
    rows = pd.read_parquet(job[0] / "predictions").set_index("image_id")
    failed = rows[rows["status"] == "error"]
    assert failed["error_type"].to_dict() == {case.name: case.kind for case in CASES if case.kind}
    assert set(failed["error_stage"]) == {"load"}
    assert failed["error_message"].str.strip().str.len().min() > 0
    assert failed[["pred_score", "map_part"]].isna().all(axis=None)


def test_good_files_have_their_scores(job):
    rows = pd.read_parquet(job[0] / "predictions").set_index("image_id")
    scored = rows[rows["status"] == "ok"]
    by_pixels = {}
    for case in CASES:
        if case.kind is None:
            row = scored.loc[case.name]
            assert (row["image_height"], row["image_width"]) == case.pixels.shape[:2]
            if case.tolerance == 0:
                by_pixels.setdefault((case.pixels.shape, case.pixels.tobytes()), []).append(row["pred_score"])
    assert all(np.ptp(scores) <= 1e-6 for scores in by_pixels.values())
    expected = Detector.from_config(load_config("mini", None, SETTINGS)).score(PICTURE, "disc").score
    assert by_pixels[PICTURE.shape, PICTURE.tobytes()][0] == pytest.approx(expected, abs=1e-6)


def test_only_plain_types_are_on_disk(job):
    def plain(kind):
        inner = [kind.field(index).type for index in range(kind.num_fields)]
        known = pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind) or bool(inner)
        return known and not pa.types.is_dictionary(kind) and all(map(plain, inner))

    parts = list(Path(job[0]).rglob("*.parquet"))
    assert {part.parent.name for part in parts} >= {"predictions", "anomaly_maps"}
    for part in parts:
        schema = parquet.read_schema(part)
        assert all(plain(field.type) for field in schema), schema
        assert not any(b"extension" in key.lower() for field in schema for key in field.metadata or {})
