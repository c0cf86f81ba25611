"""The Kubernetes manifests: what KubeRay and Ray need, what presets need, and that nothing is open."""

import re
import shlex

import pytest
import typer

from tests.cluster.conftest import CLUSTER
from zsad.config import load_config
from zsad.models.registry import entry
from zsad.pipeline.pools import plan_pools

GIB = 1024**3


@pytest.fixture(scope="module")
def cluster(manifests):
    (found,) = manifests["raycluster"]
    return found


@pytest.fixture(scope="module")
def job(manifests):
    (found,) = manifests["rayjob"]
    return found


@pytest.fixture(scope="module")
def entrypoint(job):
    """The parsed arguments of the job's ``zsad score``."""
    from zsad.cli import app

    program, command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("zsad", "score")
    return typer.main.get_command(app).commands["score"].make_context("score", arguments).params


def pod_specs(manifests):
    """Every pod template of the folder."""

    def walk(node):
        if isinstance(node, dict):
            if "containers" in node:
                yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    return list(walk(list(manifests.values())))


def test_kinds(cluster, job, manifests):
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert len(pod_specs(manifests)) == 6


def test_both_have_the_same_cluster(cluster, job):
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_autoscaler_version_token(cluster, pins):
    spec = cluster["spec"]
    assert spec["rayVersion"] == pins["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["version"] == "v2"
    # The second autoscaler replaces pods itself, and refuses pods that restart.
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert all("restartPolicy" not in group["template"]["spec"] for group in groups)
    # These are strings to Kubernetes; a bare 0 is refused.
    assert all(isinstance(value, str) for group in groups for value in group["rayStartParams"].values())
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_one_image(manifests, pins):
    images = {container["image"] for spec in pod_specs(manifests) for container in spec["containers"]}
    assert images == {pins["image"]}


def test_a_retry_resumes_and_the_cluster_goes(job):
    spec = job["spec"]
    assert 2 <= spec["backoffLimit"] <= 3
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0


def test_nothing_is_public(cluster, manifests):
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert {"Ingress", "Service"}.isdisjoint(item["kind"] for items in manifests.values() for item in items)
    (policy,) = [item for item in manifests["prepare"] if item["kind"] == "NetworkPolicy"]
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    labels = [cluster["spec"]["headGroupSpec"]["template"], cluster["spec"]["workerGroupSpecs"][0]["template"]]
    labels.append(manifests["rayjob"][0]["spec"]["submitterPodTemplate"])
    assert all(chosen.items() <= template["metadata"]["labels"].items() for template in labels)
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(rule.get("from") for rule in policy["spec"]["ingress"])


def test_pods_are_confined(manifests):
    for spec in pod_specs(manifests):
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] >= 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = dict(container["securityContext"])
            # Whether Ray's own pods can do with a read-only root is not known.
            read_only = context.pop("readOnlyRootFilesystem", False)
            assert read_only is (container["name"] not in ("ray-head", "ray-worker"))
            assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            # Sessions, sockets and spilled objects go to a volume of limited size.
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_mounts_have_volumes_accounts_exist(manifests):
    accounts = {item["metadata"]["name"] for item in manifests["prepare"] if item["kind"] == "ServiceAccount"}
    claims = {item["metadata"]["name"] for item in manifests["prepare"] if item["kind"] == "PersistentVolumeClaim"}
    for spec in pod_specs(manifests):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys()
        used = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "emptyDir" not in volume]
        assert set(used) <= claims
        assert spec.get("serviceAccountName", "zsad-head") in accounts


def test_weights_are_found_where_they_are_mounted(cluster, manifests):
    spec = cluster["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "weights"]
        assert variables["ZSAD_WEIGHTS"] == mount["mountPath"] and mount["readOnly"] is True
        assert variables["ZSAD_CACHE"].startswith("/tmp/")
    (filling,) = [item for item in manifests["prepare"] if item["kind"] == "Job"]
    (container,) = filling["spec"]["template"]["spec"]["containers"]
    (cache,) = [variable["value"] for variable in container["env"] if variable["name"] == "ZSAD_CACHE"]
    assert f"{cache}/weights" in {m["mountPath"] for m in container["volumeMounts"] if m["name"] == "weights"}
    from zsad.cli import app

    command = typer.main.get_command(app).commands["models"].commands["download"]
    assert container["command"][:3] == ["zsad", "models", "download"]
    command.make_context("download", container["command"][3:])


def test_no_secrets():
    for path in (path for path in CLUSTER.rglob("*") if path.is_file()):
        text = path.read_text()
        assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|hf_[A-Za-z0-9]{20}|\"private_key\"", text), path
        assert not re.search(r"(?i)(secret_access_key|password|auth_token)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{8}", text)


def test_requests_are_within_limits(manifests):
    from ray.autoscaler._private.kuberay.utils import parse_quantity

    for spec in pod_specs(manifests):
        for container in spec["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys() == resources["limits"].keys()
            for name, amount in resources["requests"].items():
                assert 0 < parse_quantity(amount) <= parse_quantity(resources["limits"][name])


def test_workers_have_a_gpu_and_take_spot_nodes(cluster):
    (group,) = cluster["spec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    tolerated = {toleration["key"] for toleration in pod["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= tolerated
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    terms = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    avoided = {expression["key"] for term in terms for expression in term["matchExpressions"]}
    assert avoided >= {"cloud.google.com/gke-spot", "eks.amazonaws.com/capacityType", "karpenter.sh/capacity-type"}
    assert "tolerations" not in head


@pytest.fixture(scope="module")
def node_types(cluster):
    """Node types as Ray's autoscaler reads them from the RayCluster."""
    module = pytest.importorskip("ray.autoscaler._private.kuberay.autoscaling_config", reason="private to Ray")
    if not hasattr(module, "_derive_autoscaling_config_from_ray_cr"):
        pytest.skip("Ray's private converter is elsewhere")
    named = cluster | {"metadata": {"name": "zsad", "namespace": "default"}}
    return module._derive_autoscaling_config_from_ray_cr(named)["available_node_types"]


def test_ray_reads_it(node_types):
    assert node_types["headgroup"]["resources"]["CPU"] == 0 and "GPU" not in {
        name for name, amount in node_types["headgroup"]["resources"].items() if amount
    }
    gpu = node_types["gpu"]
    assert (gpu["min_workers"], gpu["resources"]["GPU"], gpu["resources"]["CPU"]) == (0, 1, 10)


@pytest.mark.parametrize("preset", ["vand2023", "fast", "strong"])
def test_workers_hold_the_presets(node_types, preset):
    config = load_config(preset)
    sizes = [entry(model.name).size_bytes / GIB for model in config.models.by_family().values()]
    pools = {}
    for count in (1, node_types["gpu"]["max_workers"]):
        resources = {key: amount * count for key, amount in node_types["gpu"]["resources"].items()}
        pools[count] = plan_pools(config, resources, 1 + 1.5 * sum(sizes))
        assert sum(pool.size * pool.num_gpus for pool in pools[count]) == pytest.approx(count)
    actors = sum(pool.size for pool in pools[count]) / count
    # A process of 1 GiB, and half of its model once more while that is loaded; at worst all hold the largest.
    needed = {"gpu": max(1 + 1.5 * sum(sizes), actors * (1 + 1.5 * max(sizes))), "headgroup": 1 + 1.5 * sum(sizes)}
    for name, gib in needed.items():
        # 30 % is Ray's object store.
        assert gib <= 0.7 * node_types[name]["resources"]["memory"] / GIB


def test_the_entrypoint_is_one_that_zsad_takes(entrypoint, cluster):
    config = load_config(entrypoint["preset"], None, entrypoint["set_"])
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert 1 <= config.runtime.gpus <= group["maxReplicas"]
    # Otherwise a typo would cost a GPU.
    assert group["minReplicas"] == group["replicas"] == 0
    assert entrypoint["root"].startswith("s3://") and entrypoint["output"].startswith("s3://")
