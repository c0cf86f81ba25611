"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import os

# No test may reach a hub, and none may start the usage reporting of a library.
os.environ.update({"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"})
# Workers inherit these; they open no door but that of the moto servers on loopback.
os.environ.update(
    {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
)
# Several threads per process only fight over the few cores that tests run on.
os.environ["OMP_NUM_THREADS"] = "1"
# Where a test does take two, one that waits does not hold a core that another test's process needs.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import pytest
import torch
from hypothesis import settings

# Without a GPU, Triton's kernels run step by step on the CPU. Triton asks for this when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("zsad", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "zsad"))


_LONG = {"faults", "test_job_submit.py", "test_resume.py", "test_wheel.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of tests that take minutes come first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: _LONG.isdisjoint(item.path.parts))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """What a test draws from torch without a seed is the same in every run: bounds hold always or never."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def s3():
    """``host:port`` of an S3 endpoint on loopback, and its file system; each module creates a bucket of its own."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "{}:{}".format(*server.get_host_and_port())
    yield (
        endpoint,
        fs.S3FileSystem(scheme="http", endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True),
    )
    server.stop()


@pytest.fixture(scope="module")
def s3_by_environment(s3):
    """The file system of ``s3``, to which every ``s3://`` URI leads while the module's tests run."""
    endpoint, filesystem = s3
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
        yield filesystem


@pytest.fixture(scope="session")
def ray_local():
    """One local Ray for the whole session, with room for the four pools."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=300_000_000,
        log_to_driver=False,
        configure_logging=False,
    )
    yield ray
    ray.shutdown()
