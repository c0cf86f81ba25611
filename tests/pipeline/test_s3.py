"""The same job against an S3 endpoint on loopback."""

from urllib.parse import quote

import numpy as np
import pytest
from pyarrow import fs

from zsad import read_anomaly_map, read_predictions
from zsad.datasets.synthetic import write_synthetic_visa
from zsad.pipeline.evaluate import evaluate_run
from zsad.pipeline.score import ScoreOptions, score
from zsad.storage import read_success


@pytest.fixture(scope="module")
def bucket(s3, tmp_path_factory):
    """(query of the URIs, file system, local copy of the dataset) of an endpoint that holds a small dataset."""
    root = write_synthetic_visa(tmp_path_factory.mktemp("visa"), kinds=["metal_washer"], normal=1, anomalous=1)
    endpoint, filesystem = s3
    filesystem.create_dir("factory")
    fs.copy_files(str(root), "factory/visa", fs.LocalFileSystem(), filesystem)
    return f"?scheme=http&endpoint_override={quote(endpoint)}&region=us-east-1", filesystem, root


def test_job_reads_from_and_writes_to_s3(ray_local, bucket, tmp_path):
    query, filesystem, local = bucket
    remote = f"s3://factory/visa{query}"
    output = f"s3://factory/out{query}"
    options = {"dataset": "visa", "preset": "mini", "overrides": ("runtime.fused.size=1",)}
    summary = score(ScoreOptions(root=remote, output=output, **options))
    assert (summary.images, summary.errors) == (2, 0)
    assert read_success(output).counts == {"images": 2, "ok": 2, "errors": 0}

    here = str(tmp_path / "out")
    score(ScoreOptions(root=str(local), output=here, **options))
    there, ours = (read_predictions(o).sort_values("image_id", ignore_index=True) for o in (output, here))
    assert there["image_id"].tolist() == ours["image_id"].tolist()
    np.testing.assert_allclose(there["pred_score"], ours["pred_score"], atol=1e-5)
    for image_id in ours["image_id"]:
        np.testing.assert_allclose(
            read_anomaly_map(output, image_id).astype(float), read_anomaly_map(here, image_id).astype(float), atol=1e-3
        )
    metrics = evaluate_run(output)
    assert metrics["value"].notna().all()

    again = score(ScoreOptions(root=remote, output=output, **options))
    assert again.scored_now == 0
    written = [info.path for info in filesystem.get_file_info(fs.FileSelector("factory/out", recursive=True))]
    assert written and not [path for path in written if "tmp" in path]
