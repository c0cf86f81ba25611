"""What is refused before a cluster is used."""

import pytest

from zsad.config import load_config
from zsad.errors import UsageError
from zsad.pipeline import cluster


def test_a_local_path_is_refused_where_the_only_node_is_another_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"NodeID": "a", "Alive": True}])
    paths = (str(tmp_path / "in"), str(tmp_path / "out"))
    cluster.check_nodes(*paths, load_config("mini"))
    monkeypatch.setattr(cluster.ray.util.client.ray, "is_connected", lambda: True)
    with pytest.raises(UsageError, match=r"--output .*out' is a local path, but the cluster has machines of its own"):
        cluster.check_nodes(*paths, load_config("mini"))
    with pytest.raises(UsageError, match=r"--root .*in' is a local path"):
        cluster.check_nodes(paths[0], "s3://bucket/out", load_config("mini"))
