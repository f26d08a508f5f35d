"""The manifests pass a validator with Kubernetes' own schemas, and agree with the compose files."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FOLDER = Path("compose/kubernetes")
KUSTOMIZATION = yaml.safe_load(Path("compose/kustomization.yaml").read_text())
# The oldest release with sidecars on by default, and the newest that the validator knows.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
# Values of a Helm chart.
VALUES = "prometheus-adapter.yaml"

MANIFESTS = [
    (path, manifest)
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != VALUES
    for manifest in yaml.safe_load_all(path.read_text())
]


def of_kind(*kinds: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for _, one in MANIFESTS if one["kind"] in kinds}


WORKLOADS = of_kind("Deployment", "StatefulSet")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "manifest", [pytest.param(one, id=f"{one['kind']}-{one['metadata']['name']}") for _, one in MANIFESTS]
)
def test_a_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_validator_notices_a_mistake() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_all_are_applied_and_each_file_is_there() -> None:
    applied = {Path("compose") / one for one in KUSTOMIZATION["resources"]}
    assert applied == {path for path, _ in MANIFESTS}
    for generator in KUSTOMIZATION["configMapGenerator"]:
        for file in generator["files"]:
            assert (Path("compose") / file.split("=")[-1]).is_file()


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_has_few_rights_and_time_to_drain(name: str) -> None:
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    (service,) = pod["containers"]
    if name != "redis":
        pause = int(service["lifecycle"]["preStop"]["exec"]["command"][1])
        # Of the services: drain_seconds, and LAST_WORDS_SECONDS behind it.
        assert pod["terminationGracePeriodSeconds"] > pause + 10 + 3
        assert service["readinessProbe"]["grpc"]["port"] == service["ports"][0]["containerPort"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_a_pod_mounts_it_has_and_what_selects_it_finds_it(name: str) -> None:
    workload = WORKLOADS[name]
    pod = workload["spec"]["template"]["spec"]
    has = {volume["name"] for volume in pod["volumes"]}
    has |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= has
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")[name]["spec"]["selector"] == labels
    if name != "redis":
        assert of_kind("PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == labels


@pytest.mark.parametrize("name", ["draft", "target", "verifier"])
def test_gateways_find_each_pod(name: str) -> None:
    service = of_kind("Service")[name]
    assert service["spec"]["clusterIP"] == "None"
    (gateway,) = WORKLOADS["gateway"]["spec"]["template"]["spec"]["containers"]
    settings = {one["name"]: one["value"] for one in gateway["env"]}
    port = service["spec"]["ports"][0]["port"]
    assert settings[f"DREAMR_GATEWAY_{name.upper()}"] == f"dns:///{name}:{port}"


def test_the_autoscaler_asks_for_a_metric_that_the_adapter_tells() -> None:
    (rule,) = yaml.safe_load((FOLDER / VALUES).read_text())["rules"]["custom"]
    (metric,) = of_kind("HorizontalPodAutoscaler")["draft"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert "nv_inference_queue_duration_us" in rule["metricsQuery"]
    assert "nv_inference_compute_infer_duration_us" in rule["metricsQuery"]


def test_the_images_are_those_of_the_compose_files() -> None:
    images = {
        container["image"]
        for workload in WORKLOADS.values()
        for pod in [workload["spec"]["template"]["spec"]]
        for container in [*pod["containers"], *pod.get("initContainers", ())]
    }
    base = next(
        line.split("=")[1]
        for line in Path("compose/gpu/Dockerfile").read_text().splitlines()
        if line.startswith("ARG BASE_IMAGE=")
    )
    assert images == {"dreamr/services:0.1.0", "dreamr/redis:0.1.0", base}
