"""Two nodes: local paths are refused, and a run outlives the loss of one and an object store that is too small."""

import re
import subprocess

import pytest
from ray.cluster_utils import Cluster

from tests.faults.conftest import ZSAD, arguments
from tests.faults.faulty import Faults
from tools.same_run import differences

SHARED = ("--set", "runtime.shared_filesystem=true", "--set", "runtime.fused.size=2")
# The smallest that Ray allows.
STORE = 80_000_000


@pytest.fixture(scope="module")
def cluster():
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    try:
        nodes.add_node(num_cpus=1, num_gpus=0, object_store_memory=STORE)
        yield nodes
    finally:
        nodes.shutdown()


def test_a_local_output_is_refused_on_two_nodes(cluster, images, tmp_path):
    command = [ZSAD, *arguments(images, tmp_path / "out", "--address", cluster.address)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert re.search(r"--output '.*out' is a local path, but the cluster has .*shared_filesystem=true", done.stderr)
    assert not (tmp_path / "out").exists()


def test_a_lost_node_and_a_full_object_store_cost_nothing(cluster, start, reference, tmp_path):
    # 120 MB in stores of 80 MB: objects are moved out to disk, those on the lost node are gone.
    also = {"also": {"ballast": 120}}
    driver = start(tmp_path / "out", Faults(sleep=0.3), "--address", cluster.address, *SHARED, **also)
    driver.wait_for_more_parts(3)
    (worker,) = cluster.worker_nodes
    cluster.remove_node(worker, allow_graceful=False)
    assert driver.wait() == 0, driver.text()
    assert re.search(r"Spilled [1-9][0-9]* MiB", driver.text()), driver.text()
    assert differences(tmp_path / "out", reference) == []
