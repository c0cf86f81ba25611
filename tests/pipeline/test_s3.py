"""The same job against an S3 endpoint on loopback."""

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from zsad import read_anomaly_map, read_predictions
from zsad.datasets.synthetic import write_synthetic_visa
from zsad.pipeline.evaluate import evaluate_run
from zsad.pipeline.score import ScoreOptions, score
from zsad.storage import read_success


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """(query of the URIs, client, local copy of the dataset) of an endpoint that holds a small dataset."""
    root = write_synthetic_visa(tmp_path_factory.mktemp("visa"), kinds=["metal_washer"], normal=1, anomalous=1)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="factory")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), "factory", f"visa/{path.relative_to(root).as_posix()}")
    yield f"?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1", client, root
    server.stop()


def test_job_reads_from_and_writes_to_s3(ray_local, bucket, tmp_path):
    query, client, local = bucket
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
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="factory", Prefix="out/")["Contents"]]
    assert not [key for key in keys if "tmp" in key]
