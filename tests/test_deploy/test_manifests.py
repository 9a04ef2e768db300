"""Manifests against Kubernetes' schemas, KubeRay's field names and our own program."""

from __future__ import annotations

import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cli.main import Stopped
from pipeline.config import ComputeConfig, load_config
from pipeline.run import STOP_S
from pipeline.shard_spec import parse_shards
from pipeline.stages import FAILED_OBJECTS_EXIT_CODE
from storage.errors import ConfigError, EnvironmentProblem, UsageError
from tests.test_deploy.commands import parse, ray_start_options

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
JOBS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
RAY_JOBS = sorted((DEPLOY / "kuberay").glob("*.yaml"))
VERSIONS = ("1.31", "1.37")
"""backoffLimitPerIndex and podReplacementPolicy are beta from 1.29 on; the newest that the schemas know."""

# Fields of ray.io/v1, from the types of KubeRay 1.5 (ray-operator/apis/ray/v1).
JOB_FIELDS = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "clusterSelector",
    "deletionStrategy",
    "entrypoint",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "entrypointResources",
    "jobId",
    "managedBy",
    "metadata",
    "preRunningDeadlineSeconds",
    "rayClusterSpec",
    "runtimeEnvYAML",
    "shutdownAfterJobFinishes",
    "submissionMode",
    "submitterConfig",
    "submitterPodTemplate",
    "suspend",
    "ttlSecondsAfterFinished",
}
CLUSTER_FIELDS = {
    "authOptions",
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "gcsFaultToleranceOptions",
    "headGroupSpec",
    "headServiceAnnotations",
    "managedBy",
    "rayVersion",
    "suspend",
    "workerGroupSpecs",
}
HEAD_FIELDS = {
    "enableIngress",
    "headService",
    "labels",
    "rayStartParams",
    "resources",
    "serviceType",
    "template",
}
WORKER_FIELDS = {
    "groupName",
    "idleTimeoutSeconds",
    "labels",
    "maxReplicas",
    "minReplicas",
    "numOfHosts",
    "rayStartParams",
    "replicas",
    "resources",
    "scaleStrategy",
    "suspend",
    "template",
}
AUTOSCALER_FIELDS = {
    "env",
    "envFrom",
    "idleTimeoutSeconds",
    "image",
    "imagePullPolicy",
    "resources",
    "securityContext",
    "upscalingMode",
    "version",
    "volumeMounts",
}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a Job or RayJob."""
    if job["kind"] == "Job":
        return [job["spec"]["template"]]
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for template in templates(job) for container in template["spec"]["containers"]]


def validate(document: dict[str, Any], version: str = VERSIONS[-1]) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_jobs_have_kubernetes_schema(path: Path, version: str) -> None:
    validate(load(path), version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_pods_of_ray_jobs_have_kubernetes_schema(path: Path, version: str) -> None:
    for template in templates(load(path)):
        validate({"apiVersion": "v1", "kind": "PodTemplate", "template": template}, version)


def test_the_schema_refuses_a_misspelt_field() -> None:
    job = load(JOBS[0])
    job["spec"]["backoffLimitPerIndices"] = job["spec"].pop("backoffLimitPerIndex")
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(job)


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_ray_jobs_have_kuberay_fields(path: Path) -> None:
    document = load(path)
    job, cluster = document["spec"], document["spec"]["rayClusterSpec"]
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) <= JOB_FIELDS
    assert set(cluster) <= CLUSTER_FIELDS
    assert set(cluster["headGroupSpec"]) <= HEAD_FIELDS
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    assert job["submissionMode"] == "K8sJobMode"
    assert job["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_FIELDS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        parameters = group["rayStartParams"]
        assert set(parameters) <= ray_start_options()
        assert all(isinstance(value, str) for value in parameters.values())


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_ray_jobs_survive_what_they_are_for(path: Path) -> None:
    job = load(path)["spec"]
    cluster = job["rayClusterSpec"]
    _, options = parse(commands_of(load(path)))
    waits_s = load_config({}, settings=options["settings"] or ()).compute.wait_for_nodes_s
    assert waits_s >= 86_400, "a day without spot nodes does not use up the backoffLimit"
    assert cluster["rayVersion"] == metadata.version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    assert job["backoffLimit"] > 0
    # The API server refuses a time to live without it, and a strategy of rules beside it.
    assert job["shutdownAfterJobFinishes"] is True
    assert "deletionStrategy" not in job
    (worker,) = cluster["workerGroupSpecs"]
    gpu = "nvidia.com/gpu" in worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert gpu == ("gpu" in worker["groupName"])
    assert (worker["replicas"], worker["minReplicas"]) == (0, 0)
    if not gpu:
        terms = node_terms(worker["template"])
        assert all(term["operator"] == "In" for (term,) in terms), "one spot label is enough"
        (head,) = node_terms(cluster["headGroupSpec"]["template"])
        assert {term["key"] for term in head} == {term["key"] for (term,) in terms}
        assert all(term["operator"] in {"NotIn", "DoesNotExist"} for term in head), (
            "the head is never on spot"
        )


def node_terms(template: dict[str, Any]) -> list[list[dict[str, Any]]]:
    affinity = template["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [term["matchExpressions"] for term in affinity["nodeSelectorTerms"]]


@pytest.mark.parametrize("path", [*JOBS, *RAY_JOBS], ids=lambda path: path.name)
def test_pods_are_harmless_and_bounded(path: Path) -> None:
    job = load(path)
    for template in templates(job):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]
            assert not any(
                "value" in e and re.search("KEY|SECRET|TOKEN", e["name"]) for e in container.get("env", [])
            )
            mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
            if container["name"] != "ray-job-submitter":
                assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
            assert set(mounts.values()) <= set(volumes)


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_the_object_store_fits_into_shared_memory(path: Path) -> None:
    cluster = load(path)["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (shm,) = (v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")
        limit = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
        assert int(group["rayStartParams"]["object-store-memory"]) <= limit


def commands_of(job: dict[str, Any]) -> list[str]:
    """The words of the fpipe command that a manifest runs."""
    if job["kind"] == "RayJob":
        words = shlex.split(job["spec"]["entrypoint"])
        assert words[0] == "fpipe-job"
        return ["fpipe", *words[1:]]
    (container,) = containers(job)
    assert "command" not in container, "the image's entry point is fpipe"
    return ["fpipe", *container["args"]]


@pytest.mark.parametrize("path", [*JOBS, *RAY_JOBS], ids=lambda path: path.name)
def test_commands_are_understood(path: Path) -> None:
    job = load(path)
    name, options = parse(commands_of(job))
    assert options["workers"] or name == "train-shared", "shards are cut for all machines"
    assert path.stem.startswith(name)
    assert options["root"].startswith("s3://"), "no state on a pod's disk"
    if job["kind"] == "RayJob":
        assert options["ray_address"] == "auto"
    for container in containers(job):
        load_config({}, environment={e["name"]: e["value"] for e in container.get("env", []) if "value" in e})


@pytest.mark.parametrize("path", RAY_JOBS, ids=lambda path: path.name)
def test_ray_can_place_the_tasks(path: Path) -> None:
    job = load(path)
    _, options = parse(commands_of(job))
    compute = load_config({}, settings=options["settings"] or ()).compute
    (worker,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    has = worker["template"]["spec"]["containers"][0]["resources"]["requests"]
    if "render" in path.stem:
        cpus, gpus, at_once = compute.render_cpus, 0.0, options["workers"]
        assert at_once == worker["maxReplicas"] * float(has["cpu"]) / cpus
    elif "fit" in path.stem:
        cpus, gpus = compute.fit_cpus, compute.fit_gpus
        assert options["workers"] == worker["maxReplicas"] * float(has["nvidia.com/gpu"]) / gpus
    else:
        cpus, gpus = float(compute.train_cpus or 1), compute.train_gpus
        assert compute.train_workers <= worker["maxReplicas"]
    assert cpus <= float(has["cpu"])
    assert gpus <= float(has.get("nvidia.com/gpu", 0))


def test_the_indexed_job_means_our_exit_codes() -> None:
    job = load(DEPLOY / "kubernetes/render-indexed-job.yaml")["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Ignore", "a disruption comes before any exit code, 75 included"
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    by_action: dict[str, set[int]] = {}
    for rule in rules[1:]:
        assert rule["onExitCodes"]["operator"] == "In"
        assert rule["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]
        by_action.setdefault(rule["action"], set()).update(rule["onExitCodes"]["values"])
    assert by_action == {
        "Ignore": {75},
        "FailIndex": {FAILED_OBJECTS_EXIT_CODE},
        "FailJob": {UsageError.exit_code, ConfigError.exit_code},
    }
    assert EnvironmentProblem.exit_code not in set().union(*by_action.values()), "it is tried again"
    assert Stopped(75).exit_code == 75
    grace_s = job["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= ComputeConfig().grace_s + STOP_S, "shards may end, and the record of the run, too"
    # What the API server asks of these fields beyond the schema.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["completionMode"] == "Indexed"
    assert job["podReplacementPolicy"] == "Failed"


def test_the_indexed_job_covers_all_shards() -> None:
    job = load(DEPLOY / "kubernetes/render-indexed-job.yaml")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["FPIPE_NUM_SHARDS"] == str(job["completions"])
    done = [
        shard
        for index in range(job["completions"])
        for shard in parse_shards("auto", 100, environment | {"JOB_COMPLETION_INDEX": str(index)})
    ]
    assert sorted(done) == list(range(100))


def test_a_read_only_root_leaves_what_is_written_writable() -> None:
    job = load(DEPLOY / "kubernetes/render-indexed-job.yaml")
    (container,) = containers(job)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    home = re.search(r"HOME=(\S+)", (DEPLOY / "Dockerfile.render").read_text())
    assert home is not None
    assert mounts == {"/tmp", home[1], "/dev/shm"}


@pytest.mark.parametrize("path", [*JOBS, *RAY_JOBS], ids=lambda path: path.name)
def test_a_driver_may_end_what_runs_before_it_is_killed(path: Path) -> None:
    job = load(path)
    driver = job["spec"]["rayClusterSpec"]["headGroupSpec"] if job["kind"] == "RayJob" else job["spec"]
    # twice: what is abandoned then has to end, and the run's end be recorded (pipeline.run.STOP_S)
    assert driver["template"]["spec"]["terminationGracePeriodSeconds"] >= 2 * ComputeConfig().grace_s
