"""Asking an autoscaled cluster for GPUs, without one: the group is requested, waited for, and given back."""

import io

import pytest

from zsad.config import load_config
from zsad.errors import UsageError, ZsadError
from zsad.pipeline import cluster


class Group:
    def __init__(self, bundles, arrives):
        self.bundles, self.arrives, self.waited, self.removed = bundles, arrives, None, False

    def wait(self, seconds):
        self.waited = seconds
        return self.arrives


@pytest.fixture
def asked(monkeypatch):
    """Groups that were asked for; ``asked.have`` GPUs are there, ``asked.busy`` of them taken, ``asked.arrives`` says
    whether more come."""

    class Asked(list):
        have, busy, arrives = 0.0, 0.0, True

    groups = Asked()

    def placement_group(bundles):
        groups.append(Group(bundles, groups.arrives))
        return groups[-1]

    monkeypatch.setattr(cluster, "placement_group", placement_group)
    monkeypatch.setattr(cluster, "remove_placement_group", lambda group: setattr(group, "removed", True))
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": groups.have})
    monkeypatch.setattr(cluster.ray, "available_resources", lambda: {"GPU": groups.have - groups.busy})
    return groups


def wait(*overrides, root="s3://b/in", output="s3://b/out"):
    stream = io.StringIO()
    cluster.wait_for_gpus(root, output, load_config("mini", None, overrides), stream)
    return stream.getvalue()


def test_asks_for_as_many_as_said_and_gives_them_back(asked):
    assert "Waiting for 3 GPUs" in wait("runtime.gpus=3", "runtime.no_progress_seconds=20")
    (group,) = asked
    assert (group.bundles, group.waited, group.removed) == ([{"GPU": 1}] * 3, 20, True)


def test_asks_for_nothing_unless_told_or_when_they_are_there(asked):
    assert wait() == ""
    asked.have = 4.0
    assert wait("runtime.gpus=4") == "" and not asked


def test_gpus_of_others_are_waited_for_whatever_the_paths(asked):
    asked.have, asked.busy = 4.0, 1.0
    assert "Waiting for 4 GPUs" in wait("runtime.gpus=4", root="/in", output="/out")
    asked.arrives = False
    with pytest.raises(ZsadError, match=r"Asked for 4 GPUs.* has 4, of which 3 are free\. Nothing was written"):
        wait("runtime.gpus=4")


def test_gives_up_with_the_numbers(asked):
    asked.have, asked.arrives = 1.0, False
    with pytest.raises(ZsadError, match=r"Asked for 8 GPUs.* has 1\. Nothing was written") as caught:
        wait("runtime.gpus=8")
    assert not isinstance(caught.value, UsageError) and asked[0].removed


def test_a_local_path_is_refused_before_a_node_is_started(asked, tmp_path):
    with pytest.raises(UsageError, match="--output .* is a local path"):
        wait("runtime.gpus=2", output=str(tmp_path))
    assert not asked
    wait("runtime.gpus=2", "runtime.shared_filesystem=true", output=str(tmp_path))
    assert len(asked) == 1
