"""What is refused before a cluster is used."""

import gc
import io

import pytest
from PIL import Image

from zsad.config import load_config
from zsad.errors import UsageError, ZsadError
from zsad.pipeline import cluster
from zsad.pipeline.score import ScoreOptions, score


def test_a_run_from_outside_the_cluster_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"NodeID": "a", "Alive": True}])
    paths = (str(tmp_path / "in"), str(tmp_path / "out"))
    cluster.check_nodes(*paths, load_config("mini"))
    monkeypatch.setattr(cluster.ray.util.client.ray, "is_connected", lambda: True)
    for given in (paths, ("s3://bucket/in", "s3://bucket/out")):
        with pytest.raises(UsageError, match=r"outside the cluster.*ray job submit.*--address auto"):
            cluster.check_nodes(*given, load_config("mini"))
    with pytest.raises(UsageError, match=r"out' is a local path, but the cluster has machines of its own"):
        cluster.check_readable([paths[1]], shared=False)


def test_local_paths_are_refused_where_there_are_several_nodes(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"NodeID": name, "Alive": True} for name in "ab"])
    paths = (str(tmp_path / "in"), str(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"--output .*out' is a local path, but the cluster has several nodes"):
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
    one, two = (lambda names=names: [{"NodeID": name, "Alive": True} for name in names] for names in ("a", "ab"))
    monkeypatch.setattr(cluster.ray, "nodes", one)
    cluster.check_readable([folder], shared=False)
    monkeypatch.setattr(cluster.ray, "nodes", two)
    wanted = r"run' is a local path, but the cluster has several nodes.*--shared-filesystem.*--address local"
    for paths in ([folder], ["s3://bucket/run", folder]):
        with pytest.raises(UsageError, match=wanted):
            cluster.check_readable(paths, shared=False)
    cluster.check_readable([folder], shared=True)
    cluster.check_readable(["s3://bucket/run"], shared=False)


def test_a_run_with_local_paths_stays_on_its_node(tmp_path, monkeypatch):
    class Context:
        def get_node_id(self):
            return "a" * 56

    monkeypatch.setattr(cluster.ray, "get_runtime_context", Context)
    local, bucket = str(tmp_path), "s3://bucket/out"
    for paths in ([local, bucket], [bucket, local]):
        here = cluster.placement(paths, shared=False)["scheduling_strategy"]
        assert (here.node_id, here.soft) == ("a" * 56, False)
    assert cluster.placement([bucket, bucket], shared=False) == {}
    assert cluster.placement([local, local], shared=True) == {}


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_is_collected_as_before_when_the_models_are_refused(tmp_path, monkeypatch, enabled):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    collecting = []

    def refuse(*_):
        collecting.append(gc.isenabled())
        raise UsageError("no such weights")

    monkeypatch.setattr("zsad.pipeline.score.validate_models", refuse)
    options = ScoreOptions("folder", str(tmp_path / "in"), str(tmp_path / "out"), "mini", object_name="part")
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(UsageError, match="no such weights"):
            score(options, io.StringIO())
        assert collecting == [False]
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
