"""The rules that compose.yaml and the Dockerfiles keep, checked without a container engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.settings import Settings
from tests.support.paths import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: They end by themselves.
ONE_SHOT = {"bucket", "models", "s3-folder"}
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_keeps_the_rules(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":[^:/]*\d|^rmbg-queue/", service["image"]), "an image without a version"
    assert not service["image"].endswith(":latest")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert name in ONE_SHOT or "healthcheck" in service
    # The one that hands a volume over has to be root.
    assert service["user"].startswith("0:") == (name == "s3-folder")
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "published beyond this machine"


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_needs_is_there_and_its_secrets_come_from_files(name: str) -> None:
    service = SERVICES[name]
    for secret in service.get("secrets", ()):
        assert COMPOSE["secrets"][secret]["file"].startswith("./deploy/docker/secrets/")
    for variable, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|ACCESS_KEY|ROOT_USER|REDIS_URL", variable):
            assert variable.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in service["secrets"]
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
    assert "build" not in service or (ROOT / service["build"]["dockerfile"]).exists()
    for other, how in service.get("depends_on", {}).items():
        healthy = how["condition"] == "service_healthy"
        assert healthy == ("healthcheck" in SERVICES[other]), other


def _with_defaults(text: str) -> str:
    """Replace compose's variables by their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_io_worker_may_take_longer_to_end_than_its_grace_time() -> None:
    assert int(SERVICES["io"]["stop_grace_period"].rstrip("s")) > Settings.load().shutdown_seconds


@pytest.mark.parametrize("name", ["cpu0", "gpu0"])
def test_a_model_worker_may_take_15_s_longer_to_end_than_its_job(name: str) -> None:
    given = SERVICES[name]["environment"]["RMBG_SHUTDOWN_SECONDS"]
    assert given.startswith("${RMBG_SHUTDOWN_SECONDS:-")
    default = Settings.model_fields["shutdown_seconds"].default
    assert int(_with_defaults(given)) == default
    stop = SERVICES[name]["stop_grace_period"]
    assert stop.startswith("${WORKER_STOP_GRACE:-")
    assert _with_defaults(stop) == f"{default + 15:.0f}s"


def test_a_gpu_worker_has_its_own_device_and_queue_and_the_weights_a_volume() -> None:
    gpu = SERVICES["gpu0"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == [gpu["environment"]["CUDA_VISIBLE_DEVICES"]]
    queues = gpu["command"][gpu["command"].index("-Q") + 1]
    assert queues.startswith("gpu.${RMBG_HOST:-rmbg}.0,")
    assert "models:/models:ro" in gpu["volumes"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_keeps_the_rules(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"], "the last stage runs as nobody's user"
    assert not [line for line in lines if line.startswith("ADD ") or ":latest" in line]
    copied = [line for line in lines if line.startswith("COPY ") and "--from" not in line]
    # Only what is installed: no weights, no secrets, no tests.
    sources = {word for line in copied for word in line.split()[1:-1]}
    wanted = {"constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert sources == wanted | {"api", "deploy", "inference", "tasks"}
    assert "-c constraints.txt" in text
    assert "--no-cache-dir" in text
    if path.name == "api.Dockerfile":
        assert re.findall(r"'\.\[([^]]*)\]'", text) == ["flower"], "no model library"


def test_nothing_secret_goes_into_an_image_or_the_repository() -> None:
    for name in (".dockerignore", ".gitignore"):
        assert "deploy/docker/secrets" in (ROOT / name).read_text()
