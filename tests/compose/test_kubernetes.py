"""The manifests pass a validator with Kubernetes' own schemas, and agree with the compose files."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.common.settings import ServiceSettings
from services.draft.settings import DraftSettings
from services.gateway.settings import GatewaySettings
from services.target.settings import TargetSettings
from services.verifier.settings import VerifierSettings

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
COMPOSE = yaml.safe_load(Path("compose/docker-compose.yml").read_text())["services"]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "draft": DraftSettings,
    "target": TargetSettings,
    "verifier": VerifierSettings,
    "gateway": GatewaySettings,
}


def service_of(name: str) -> dict[str, Any]:
    """The container of a workload beside which the others stand."""
    (found,) = WORKLOADS[name]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


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
    settings = environment(service_of("gateway"))
    port = service["spec"]["ports"][0]["port"]
    assert settings[f"DREAMR_GATEWAY_{name.upper()}"] == f"dns:///{name}:{port}"


@pytest.mark.parametrize("name", ["gateway", "gateway-2"])
def test_gateways_are_reached_as_those_of_the_compose_file(name: str) -> None:
    def listening(settings: dict[str, str]) -> dict[str, str]:
        ends = ("_LISTEN", "_HTTP", "_METRICS")
        return {key: value for key, value in settings.items() if key.endswith(ends)}

    gateway = service_of("gateway")
    found = listening(environment(gateway))
    assert found == listening(COMPOSE[name]["environment"])
    ports = {int(value.rpartition(":")[2]) for value in found.values()}
    assert ports == {port["containerPort"] for port in gateway["ports"]}
    assert ports == {port["port"] for port in of_kind("Service")["gateway"]["spec"]["ports"]}
    (allowed,) = of_kind("NetworkPolicy")["gateway"]["spec"]["ingress"]
    # Metrics are not for everybody.
    assert {port["port"] for port in allowed["ports"]} == ports - {9100}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_one_that_its_service_has(name: str) -> None:
    known = {f"DREAMR_{name}_{field}".upper() for field in SETTINGS[name].model_fields}
    assert set(environment(service_of(name))) <= known | {"DREAMR_SECRETS"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_may_start_for_as_long_as_it_waits(name: str) -> None:
    container = service_of(name)
    default = SETTINGS[name].model_fields["startup_seconds"].default
    waits = float(environment(container).get(f"DREAMR_{name.upper()}_STARTUP_SECONDS", default))
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > waits
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    if not pod.get("initContainers"):
        # Those that wait for another pod's model, and not for the Triton beside them.
        triton = WORKLOADS["target"]["spec"]["template"]["spec"]["initContainers"][0]["startupProbe"]
        assert waits >= triton["periodSeconds"] * triton["failureThreshold"]


@pytest.mark.parametrize("name", ["draft", "target"])
def test_a_pod_with_a_gpu_makes_place_for_the_next_one(name: str) -> None:
    assert WORKLOADS[name]["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    (triton,) = WORKLOADS[name]["spec"]["template"]["spec"]["initContainers"]
    # By a number that the image has no name for, PyTorch's compiler finds neither user nor cache.
    assert {"HOME", "USER", "TORCHINDUCTOR_CACHE_DIR"} <= set(environment(triton))


@pytest.mark.parametrize("name", ["draft", "target", "verifier"])
def test_who_reads_a_tokenizer_or_a_template_has_the_models(name: str) -> None:
    overlay = yaml.safe_load(Path("compose/docker-compose.gpu.yml").read_text())["services"]
    assert any(volume.endswith(":/models:ro") for volume in overlay[name]["volumes"])
    mounts = {mount["mountPath"]: mount for mount in service_of(name)["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True


@pytest.mark.parametrize("name", ["target", "verifier", "gateway"])
def test_memory_is_that_of_the_compose_file(name: str) -> None:
    limit = service_of(name)["resources"]["limits"]["memory"]
    assert limit.removesuffix("i").lower() == COMPOSE[name]["mem_limit"]


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
