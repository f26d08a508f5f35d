"""The compose files fit together, and what they name is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreamr.tls import SERVERS, Tls
from services.draft.settings import DraftSettings
from services.gateway.settings import GatewaySettings
from services.target.settings import TargetSettings
from services.verifier.settings import VerifierSettings
from tests.compose.stack import Stack, compose_command

COMPOSE = Path("compose")
OVERLAYS = ("gpu", "observability", "tls")
SETTINGS = (DraftSettings, TargetSettings, VerifierSettings, GatewaySettings)


def merged(*overlays: str) -> dict[str, Any]:
    """What `docker-compose config` makes of the files."""
    if not compose_command():
        pytest.skip("docker-compose is not installed")
    files = ["docker-compose.yml", *(f"docker-compose.{name}.yml" for name in overlays)]
    found: dict[str, Any] = yaml.safe_load(Stack("dreamr-config", files, {}).compose("config"))
    return found


@pytest.mark.parametrize("overlays", [(), *((name,) for name in OVERLAYS), OVERLAYS], ids="+".join)
def test_the_files_are_valid_and_what_they_mount_is_there(overlays: tuple[str, ...]) -> None:
    found = merged(*overlays)
    for name, service in found["services"].items():
        for mount in map(source, service.get("volumes", ())):
            # The models and the certificates are the user's own.
            if mount.startswith("/") and not mount.endswith("/gpu/models"):
                assert Path(mount).exists(), f"{name}: {mount}"


@pytest.mark.parametrize("overlays", [(), OVERLAYS], ids="+".join)
def test_every_setting_is_one_that_its_service_has(overlays: tuple[str, ...]) -> None:
    known = {
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in SETTINGS
        for field in settings.model_fields
    }
    known |= set(re.findall(r"DREAMR_TRITON_\w+", Path("dreamr/cli/triton.py").read_text())) | {
        "DREAMR_SECRETS"
    }
    for name, service in merged(*overlays)["services"].items():
        ours = {key for key in service.get("environment", {}) if key.startswith("DREAMR_")}
        assert ours <= known, name


@pytest.mark.parametrize("overlays", [(), OVERLAYS], ids="+".join)
def test_no_container_has_more_rights_than_it_needs(overlays: tuple[str, ...]) -> None:
    for name, service in merged(*overlays)["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["init"] is True, name
        # What listens at the machine's own address alone is nobody else's by chance.
        for port in service.get("ports", ()):
            host = port["host_ip"] if isinstance(port, dict) else port.split(":")[0]
            assert host == "127.0.0.1", name


def test_a_container_gets_its_own_key_alone() -> None:
    found = merged("tls")
    for name, service in found["services"].items():
        role = name.removesuffix("-2")
        secrets = {one["source"] if isinstance(one, dict) else one for one in service.get("secrets", ())}
        assert secrets == {"ca", role, f"{role}-key"}
    for role in SERVERS:
        files = Tls.of("certs", role)
        assert Path(found["secrets"][role]["file"]).name == Path(str(files.cert)).name
        assert Path(found["secrets"][f"{role}-key"]["file"]).name == Path(str(files.key)).name


def test_every_service_sends_its_traces_where_jaeger_takes_them() -> None:
    services = merged("observability")["services"]
    sent = {
        name: value
        for name, service in services.items()
        for key, value in service.get("environment", {}).items()
        if key.endswith("_OTLP")
    }
    assert set(sent) == {"gateway", "gateway-2", "draft", "verifier", "target"}
    config = yaml.safe_load((COMPOSE / "observability" / "jaeger.yml").read_text())
    port = config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rsplit(":", 1)[1]
    assert set(sent.values()) == {f"http://jaeger:{port}"}
    for name in sent:
        assert set(services[name]["networks"]) & set(services["jaeger"]["networks"]), name


def test_jaeger_writes_what_it_asks_for() -> None:
    config = yaml.safe_load((COMPOSE / "observability" / "jaeger.yml").read_text())
    (pipeline,) = config["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) == set(config[kind])
    assert set(config["service"]["extensions"]) == set(config["extensions"])
    stores = config["extensions"]["jaeger_storage"]["backends"]
    assert set(stores) == {config["extensions"]["jaeger_query"]["storage"]["traces"]}
    assert set(stores) == {config["exporters"]["jaeger_storage_exporter"]["trace_storage"]}


def test_the_images_have_what_the_settings_need() -> None:
    built = re.findall(r"compose/requirements.py([\w ]*) >", (COMPOSE / "Dockerfile").read_text())
    assert len(built) == 2
    assert all("traces" in extras.split() for extras in built)


def test_prometheus_looks_at_every_service() -> None:
    config = yaml.safe_load((COMPOSE / "observability" / "prometheus.yml").read_text())
    asked = {
        (name, discovery["port"])
        for job in config["scrape_configs"]
        for discovery in job["dns_sd_configs"]
        for name in discovery["names"]
    }
    offered = {
        (name, int(value.rsplit(":", 1)[1]))
        for name, service in merged()["services"].items()
        for key, value in service.get("environment", {}).items()
        if key.endswith("_METRICS")
    }
    assert asked == offered


def source(volume: Any) -> str:
    return str(volume["source"] if isinstance(volume, dict) else volume.split(":")[0])
