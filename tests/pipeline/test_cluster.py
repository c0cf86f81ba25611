"""What is refused before a cluster is used."""

import pytest

from zsad.config import load_config
from zsad.errors import UsageError, ZsadError
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


def test_a_node_that_is_gone_by_the_time_it_is_tried_does_not_end_the_run(monkeypatch):
    listed = [["a", "b"], ["a", "b"], ["a"]]
    tried = []

    class Task:
        def options(self, scheduling_strategy):
            self.node = scheduling_strategy.node_id
            return self

        def remote(self, output):
            return self.node

    def get(node, timeout):
        tried.append(node[0])
        if node[0] == "b":
            raise cluster.ray.exceptions.WorkerCrashedError

    def nodes():
        names = listed.pop(0) if len(listed) > 1 else listed[0]
        return [{"NodeID": 56 * name, "Alive": True} for name in names]

    monkeypatch.setattr(cluster.ray, "nodes", nodes)
    monkeypatch.setattr(cluster.ray, "remote", lambda **_: lambda _: Task())
    monkeypatch.setattr(cluster.ray, "get", get)
    monkeypatch.setattr(cluster.time, "sleep", lambda _: None)
    cluster.check_nodes("s3://bucket/in", "s3://bucket/out", load_config("mini"))
    # Tried again while it was still listed.
    assert tried == ["a", "b", "b"]
    listed[:] = [["a", "b"]]
    with pytest.raises(ZsadError, match="A node could not try the output"):
        cluster.check_nodes("s3://bucket/in", "s3://bucket/out", load_config("mini"))


def test_a_run_in_a_local_folder_is_not_read_from_other_machines(tmp_path, monkeypatch):
    folder = str(tmp_path / "run")
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"NodeID": "a", "Alive": True}])
    cluster.check_readable(folder, shared=False)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"NodeID": name, "Alive": True} for name in "ab"])
    with pytest.raises(UsageError, match=r"run' is a local path, but the cluster has several nodes.*--address local"):
        cluster.check_readable(folder, shared=False)
    cluster.check_readable(folder, shared=True)
    cluster.check_readable("s3://bucket/run", shared=False)
