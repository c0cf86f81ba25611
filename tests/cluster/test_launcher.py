"""aws.yaml and gcp.yaml, through Ray's own preparation and schema."""

import shlex

import pytest
import yaml

from tests.cluster.conftest import CLUSTER, REPOSITORY

util = pytest.importorskip("ray.autoscaler._private.util", reason="private to Ray")


@pytest.fixture(scope="module", params=["aws", "gcp"])
def launcher(request):
    return yaml.safe_load((CLUSTER / f"{request.param}.yaml").read_text())


def workers(launcher):
    types = dict(launcher["available_node_types"])
    del types[launcher["head_node_type"]]
    return types


def test_ray_accepts_it(launcher):
    if not hasattr(util, "prepare_config") or not hasattr(util, "validate_config"):
        pytest.skip("Ray's private functions are elsewhere")
    prepared = util.prepare_config(launcher)
    util.validate_config(prepared)
    with pytest.raises(Exception, match="nonsense"):
        util.validate_config(prepared | {"nonsense": 1})


def test_workers_are_spot_and_start_with_none(launcher):
    for worker in workers(launcher).values():
        assert (worker["min_workers"], worker["resources"]["GPU"]) == (0, 1)
        assert 0 < worker["max_workers"] <= launcher["max_workers"]
        node = worker["node_config"]
        spot = {"aws": {"MarketType": "spot"}, "gcp": {"provisioningModel": "SPOT"}}[launcher["provider"]["type"]]
        assert spot.items() <= (node.get("InstanceMarketOptions") or node["scheduling"]).items()
    head = launcher["available_node_types"][launcher["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert not {"InstanceMarketOptions", "scheduling"} & head["node_config"].keys()


def test_versions_are_those_of_the_constraints(launcher, pins):
    assert launcher["docker"]["image"] == pins["base"]
    assert all("--constraint ~/dist/constraints.txt" in c for c in launcher["setup_commands"] if "pip" in c)
    assert all("--constraint" in c for c in launcher["head_setup_commands"])


def test_the_dashboard_is_on_loopback_and_tokens_are_on(launcher):
    (start,) = [command for command in launcher["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start and "0.0.0.0" not in start and "--num-cpus=0" in start
    assert "--autoscaling-config" in start
    assert "--env RAY_AUTH_MODE=token" in launcher["docker"]["run_options"]
    assert launcher["file_mounts"]["/home/ray/.ray"] == "~/.ray"
    assert "IpPermissions" not in launcher["provider"].get("security_group", {})


def test_both_clouds_run_the_same_commands():
    aws, gcp = (yaml.safe_load((CLUSTER / f"{name}.yaml").read_text()) for name in ("aws", "gcp"))
    same = ["docker", "file_mounts", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands"]
    assert {key: aws[key] for key in same} == {key: gcp[key] for key in same}
    assert aws["idle_timeout_minutes"] == gcp["idle_timeout_minutes"]


def test_every_command_is_shell(launcher):
    for key, commands in launcher.items():
        if key.endswith("_commands"):
            assert all(shlex.split(command) for command in commands)


def test_what_is_mounted_is_made_by_the_readme(launcher, readme):
    assert launcher["file_mounts"]["/home/ray/dist"] == "dist"
    assert "pip wheel --no-deps -w dist ." in readme and "cp constraints.txt dist/" in readme
    assert (REPOSITORY / "constraints.txt").is_file()
