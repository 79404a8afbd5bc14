"""The rules that compose.yaml and the Dockerfiles keep, checked without a container engine."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from deploy.local.service import script
from tasks.settings import Settings
from tests.support.paths import ROOT
from tests.support.programs import run_program

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN_SERVERS = (ROOT / "docs" / "own-servers.md").read_text()
#: They end by themselves.
ONE_SHOT = {"bucket", "models", "s3-folder", "s3-user"}
#: What is published: the service, and for operators of this machine what asks for a password.
PUBLISHED = {"nginx", "flower", "grafana"}
#: What fetches from elsewhere: pictures by URL, webhooks, weights.
OUT = {"api", "io", "models"}
HARDENED = {"read_only": True, "cap_drop": ["ALL"]}
HARDENED |= {"security_opt": ["no-new-privileges:true"]}
GPU_WORKERS = {f"gpu{number}" for number in range(8)}
WORKERS = {"cpu0", *GPU_WORKERS}
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))


def _compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Have Docker Compose itself, which needs no engine for that, read the file."""
    env = {"PATH": os.environ["PATH"]}
    return run_program(script("docker-compose"), *arguments, cwd=ROOT, env=env)


@pytest.mark.parametrize(
    ("profile", "workers"),
    [("cpu", {"cpu0"}), ("gpu", {"gpu0"}), ("gpus-2", {"gpu0", "gpu1"})]
    + [(f"gpus-{count}", {f"gpu{number}" for number in range(count)}) for count in (4, 8)]
    + [("monitoring", set())],
)
def test_a_profile_has_its_workers_with_servers_of_ones_own_too(
    profile: str, workers: set[str]
) -> None:
    other = {"prometheus", "grafana"} if profile == "monitoring" else {"models"}
    always = {"api", "io", "nginx", "flower", "bucket"}
    servers = {"redis", "s3", "s3-folder", "s3-user"}
    services = ("--profile", profile, "config", "--services")
    done = _compose(*services)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == always | other | workers | servers
    own = _compose("-f", "compose.yaml", "-f", "deploy/docker/own-servers.yaml", *services)
    assert (own.returncode, own.stderr) == (0, "")
    assert set(own.stdout.split()) == always | other | workers


def test_with_servers_of_ones_own_nothing_waits_for_others_and_their_networks_lead_out() -> None:
    files = ("-f", "compose.yaml", "-f", "deploy/docker/own-servers.yaml")
    every = ("--profile", "gpus-8", "--profile", "cpu", "config", "--format", "json")
    read = json.loads(_compose(*files, *every).stdout)
    for name, service in read["services"].items():
        assert service.get("depends_on", {}).keys() <= {"api", "bucket"}, name
    assert not [name for name in ("queue", "store") if read["networks"][name].get("internal")]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_keeps_the_rules(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":[^:/]*\d|^rmbg-queue/", service["image"]), "an image without a version"
    assert not service["image"].endswith(":latest")
    assert service.items() >= HARDENED.items()
    assert name in ONE_SHOT or "healthcheck" in service
    # The one that hands a volume over has to be root.
    assert service["user"].startswith("0:") == (name == "s3-folder")
    assert service["mem_limit"]
    assert 0 < service["pids_limit"] <= 1024
    assert ("ports" in service) == (name in PUBLISHED)
    for port in service.get("ports", ()):
        assert _with_defaults(port).startswith("127.0.0.1:"), "published beyond this machine"


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


#: What the file itself connects: folders that are volumes, and ports that others scrape.
CONNECTED = {"RMBG_MODEL_DIR", "RMBG_DATA_DIR", "RMBG_METRICS_PORT", "RMBG_METRICS_ADDRESS"}


@pytest.mark.parametrize(
    "name", [name for name, each in SERVICES.items() if each["image"].startswith("rmbg-queue/")]
)
def test_each_setting_can_be_set_in_a_file(name: str) -> None:
    service = SERVICES[name]
    if name == "s3-folder":  # runs none of the service's programs
        return
    assert service["env_file"] == [{"path": ".env", "required": False}]
    for variable, value in service.get("environment", {}).items():
        if variable.startswith("RMBG_") and variable not in CONNECTED:
            # Else what stands here would go before the file. A file of a secret does not.
            assert variable.endswith("_FILE") or value.startswith(f"${{{variable}:-"), variable


def test_each_side_has_a_network_of_its_own() -> None:
    networks = {name: {*service.get("networks", ())} for name, service in SERVICES.items()}

    def neighbours(name: str) -> set[str]:
        return {other for other in networks if networks[other] & networks[name]} - {name}

    assert neighbours("redis") == {"api", "io", "flower"} | WORKERS
    assert neighbours("s3") == {"api", "io", "bucket", "s3-user", "nginx"} | WORKERS
    assert neighbours("nginx") == {"api", "s3"}
    for name, service in SERVICES.items():
        assert service.get("network_mode") == "none" or networks[name], name
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    for name, given in COMPOSE["networks"].items():
        users = {each for each in SERVICES if name in networks[each]}
        network = given or {}
        if network.get("internal"):
            continue
        if network.get("driver_opts", {}).get(masquerade, "true") == "true":
            assert users == OUT, f"{name} leads out"
        else:
            assert users <= PUBLISHED, name


def test_redis_is_full_before_its_container_is() -> None:
    config = (ROOT / "deploy/docker/redis.conf").read_text()
    most = int(re.findall(r"^maxmemory (\d+)gb$", config, re.MULTILINE)[0])
    assert SERVICES["redis"]["mem_limit"] == f"{2 * most}g"


def test_the_services_keys_of_the_store_open_its_bucket_alone() -> None:
    root = {"s3_root_user", "s3_root_password"}
    who = {name for name, each in SERVICES.items() if root & set(each.get("secrets", ()))}
    assert who == {"s3", "s3-user"}
    assert SERVICES["bucket"]["depends_on"].keys() == {"s3-user"}
    policy = json.loads((ROOT / "deploy/docker/store-policy.json").read_text())
    bucket = f"arn:aws:s3:::{Settings.model_fields['s3_bucket'].default}"
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        assert set(statement["Resource"]) <= {bucket, f"{bucket}/*"}
        assert not [each for each in statement["Action"] if "*" in each or "Policy" in each]
    documented = re.findall(r"`(s3:\w+)`", OWN_SERVERS)
    allowed = {action for each in policy["Statement"] for action in each["Action"]}
    assert set(documented) == allowed, "docs/own-servers.md says what each is for"


def test_the_store_gets_the_services_user_and_no_key_is_an_argument(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy/docker/secrets.sh", folder], check=True)
    asked = tmp_path / "asked"
    client = tmp_path / "mc"
    # Attaching what is attached is refused.
    client.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\necho "$MC_HOST_store" >> {asked}.env\n'
        f'case "$*" in *"user add"*) cat >> {asked}.input;; *attach*) exit 1;; '
        "*info*) echo PolicyName: rmbg-bucket;; esac\n"
    )
    client.chmod(0o755)
    script = ROOT / "deploy/docker/store-user.sh"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", script, "http://s3:9000", folder], check=True, env=env)
    secret = {path.name: path.read_text() for path in folder.iterdir()}
    keys = [secret["s3_access_key"], secret["s3_secret_key"]]
    assert asked.with_name("asked.input").read_text().split() == keys
    root = f"{secret['s3_root_user']}:{secret['s3_root_password']}"
    assert set(asked.with_name("asked.env").read_text().split()) == {f"http://{root}@s3:9000"}
    said = asked.read_text()
    assert "policy attach store rmbg-bucket --user rmbg" in said
    assert secret["s3_secret_key"] not in said
    assert secret["s3_root_password"] not in said


def _with_defaults(text: str) -> str:
    """Replace compose's variables by their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_a_worker_may_take_longer_to_end_than_its_job() -> None:
    grace = int(Settings.load().shutdown_seconds)
    assert int(SERVICES["io"]["stop_grace_period"].rstrip("s")) > grace
    for worker in (SERVICES[name] for name in WORKERS):
        given = worker["environment"]["RMBG_SHUTDOWN_SECONDS"]
        assert given == f"${{RMBG_SHUTDOWN_SECONDS:-{grace}}}"
        assert worker["stop_grace_period"] == f"${{WORKER_STOP_GRACE:-{grace + 15}s}}"


@pytest.mark.parametrize("name", sorted(GPU_WORKERS))
def test_a_gpu_worker_has_its_own_name_queue_and_device_and_the_weights_a_volume(name: str) -> None:
    gpu, number = SERVICES[name], name.removeprefix("gpu")
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == [number]
    # Inside its container, the one GPU is number 0.
    assert gpu["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
    command = gpu["command"]
    assert command[command.index("-n") + 1].startswith(f"{name}@")
    assert command[command.index("-Q") + 1].startswith(f"gpu.${{RMBG_HOST:-rmbg}}.{number},")
    assert gpu["healthcheck"]["test"][-1] == command[command.index("-n") + 1]
    queue = _with_defaults(command[command.index("-Q") + 1]).split(",")[1]
    assert queue == f"model.{_with_defaults(gpu['environment']['RMBG_MODEL'])}"
    assert "models:/models:ro" in gpu["volumes"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_keeps_the_rules_and_hadolint_finds_nothing(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"], "the last stage runs as nobody's user"
    assert not [line for line in lines if line.startswith("ADD ") or ":latest" in line]
    copied = [line for line in lines if line.startswith("COPY ") and "--from" not in line]
    # Only what is installed: no weights, no secrets, no tests.
    sources = {word for line in copied for word in line.split()[1:-1]}
    wanted = {"deploy/docker/locks", "pyproject.toml", "README.md", "LICENSE"}
    wanted |= {"clients/python/rmbg_client"}
    assert sources == wanted | {"api", "deploy", "inference", "tasks"}
    installs = re.findall(r"pip (?:install|wheel) ([^&]*)", text)
    assert len(installs) == 4
    for options in installs:
        assert "--no-cache-dir" in options
        assert ("--require-hashes" in options) != ("--no-deps" in options), "without hashes"
    done = run_program(script("hadolint"), path)
    assert not done.returncode, done.stdout


def test_the_image_that_fetches_weights_keeps_pip() -> None:
    assert SERVICES["models"]["image"] == SERVICES["api"]["image"]
    assert "pip uninstall" not in (ROOT / "deploy/docker/api.Dockerfile").read_text()


def test_the_workflow_builds_the_images_that_compose_runs() -> None:
    file = ROOT / ".github/workflows/images.yml"
    arguments = ["--builtin-schema", "vendor.github-workflows", str(file)]
    checked = CliRunner().invoke(check_jsonschema, arguments)
    assert checked.exit_code == 0, checked.output
    job = yaml.safe_load(file.read_text())["jobs"]["image"]
    assert {
        f"rmbg-queue/{each['name']}": (
            f"deploy/docker/{each['file']}",
            {"EXTRAS": each["extras"]} if each["extras"] else None,
        )
        for each in job["strategy"]["matrix"]["include"]
    } == {
        service["image"]: (service["build"]["dockerfile"], service["build"].get("args"))
        for service in SERVICES.values()
        if "build" in service
    }
    (build,) = (step["with"] for step in job["steps"] if "build-push" in step.get("uses", ""))
    assert (build["sbom"], build["provenance"]) == (True, "mode=max")
    assert build["platforms"] == "linux/amd64,linux/arm64"


def test_nothing_secret_goes_into_an_image_or_the_repository() -> None:
    for name in (".dockerignore", ".gitignore"):
        lines = (ROOT / name).read_text().splitlines()
        assert {"deploy/docker/secrets", ".env"} <= {line.strip("/") for line in lines}


def test_the_pages_start_the_processes_as_compose_does() -> None:
    """What is published and the places of programs differ."""
    shown = re.findall(
        r"^\.venv/bin/((?:gunicorn|celery .* worker) .*)$", OWN_SERVERS, re.MULTILINE
    )
    commands = [SERVICES[name]["command"] for name in ("api", "io", "gpu0")]
    as_in_a_shell = [re.sub(r"\$\{(\w+):-[^}]*\}", r"$\1", " ".join(each)) for each in commands]
    assert [" ".join(shlex.split(each)) for each in shown] == [
        each.replace("0.0.0.0:", "127.0.0.1:") for each in as_in_a_shell
    ]


def test_the_pages_name_profiles_files_and_services_of_compose() -> None:
    profiles = {profile for each in SERVICES.values() for profile in each.get("profiles", ())}
    text = "".join(
        page.read_text() for page in [ROOT / "compose.yaml", *(ROOT / "docs").glob("*.md")]
    )
    commands = re.findall(r"docker compose ((?:-f|--profile|run|up|exec) [^`\n#(]*)", text)
    assert len(commands) > 15
    for words in map(shlex.split, commands):
        named = {word: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("-")}
        assert named.get("--profile", "cpu") in profiles, words
        assert (ROOT / named.get("-f", "compose.yaml")).exists(), words
        (begins,) = (at for at, word in enumerate(words) if word in {"run", "up", "exec", "build"})
        services = [word for word in words[begins + 1 :] if not word.startswith("-")]
        one = words[begins] in {"run", "exec"}
        assert set(services[:1] if one else services) <= SERVICES.keys(), words
