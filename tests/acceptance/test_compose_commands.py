"""The commands and health checks of compose.yaml, run as they stand, outside of containers."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from deploy.client import ServiceClient
from deploy.local.ports import is_free, reserved_ports
from deploy.local.service import NotReadyError, Service, script, valkey_server
from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from tasks.settings import Settings
from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.servers import S3Address, Servers, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())[
    "services"
]


class Stage:
    """What a container would find: its programs, its secrets, its addresses."""

    def __init__(self, folder: Path, ports: list[int], s3: S3Address) -> None:
        self.folder = folder
        self.moved = dict(zip(("6379", "8000", "5555"), map(str, ports), strict=False))
        self.metrics = {"io": str(ports[3]), "cpu0": str(ports[4])}
        programs = folder / "bin"
        programs.mkdir()
        (programs / "redis-server").symlink_to(valkey_server())
        cli = Path(valkey_server()).with_name("valkey-cli")
        self.has_cli = cli.exists()
        self.path = f"{programs}:{Path(script('celery')).parent}:{os.environ['PATH']}"
        self.secrets = folder / "secrets"
        subprocess.run([ROOT / "deploy/docker/secrets.sh", self.secrets], check=True)
        for name, value in {"s3_access_key": s3.access_key, "s3_secret_key": s3.secret_key}.items():
            (self.secrets / name).chmod(0o600)
            (self.secrets / name).write_text(value)
        url = self.secrets / "redis_url"
        url.chmod(0o600)
        url.write_text(url.read_text().replace("@redis:6379", f"@127.0.0.1:{self.moved['6379']}"))
        self.s3 = s3

    def here(self, text: str, name: str) -> str:
        """A text of compose.yaml as it is on this machine."""
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text).replace("$$", "$")
        text = text.replace("/run/secrets/", f"{self.secrets}/")
        text = text.replace("http://s3:9000", self.s3.endpoint)
        text = text.replace("/spool", str(self.folder))
        text = text.replace("/usr/local/etc/redis.conf", str(self.folder / "redis.conf"))
        text = re.sub(r"0\.0\.0\.0\b", "127.0.0.1", text)
        for inside, outside in self.moved.items():
            text = re.sub(rf"(?<=[:=]){inside}\b", outside, text)
        return text.replace("9100", self.metrics.get(name, "0"))

    def environment(self, name: str) -> dict[str, str]:
        given = SERVICES[name].get("environment", {})
        env = {key: self.here(str(value), name) for key, value in given.items()}
        env |= {"PATH": self.path, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        if "RMBG_MODEL_DIR" in env:
            env["RMBG_MODEL_DIR"] = str(Settings.load().model_dir)
            env["RMBG_S3_PUBLIC_ENDPOINT"] = self.s3.endpoint
        return env

    def command(self, name: str) -> list[str]:
        return [self.here(word, name) for word in SERVICES[name]["command"]]

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        return run_program(*command, env=self.environment(name), cwd=self.folder)

    def healthy(self, name: str) -> bool:
        if name == "redis" and not self.has_cli:
            return not is_free(int(self.moved["6379"]))
        kind, *words = (self.here(word, name) for word in SERVICES[name]["healthcheck"]["test"])
        return (
            self.run(name, ["sh", "-c", *words] if kind == "CMD-SHELL" else words).returncode == 0
        )

    @contextmanager
    def running(self, *names: str) -> Iterator[None]:
        """The services' own commands, until their own health checks are content."""
        with ExitStack() as stack:
            for name in names:
                log = self.folder / f"{name}.log"
                stack.enter_context(running(self._service(name), log, seconds=90))
            yield

    def _service(self, name: str) -> Service:
        def probe(_since: float) -> None:
            if not self.healthy(name):
                raise NotReadyError("its health check is not content")

        program, *arguments = self.command(name)
        command = (str(shutil.which(program, path=self.path)), *arguments)
        env = self.environment(name)
        return Service(name, command, env=env, folder=self.folder, probe=probe, grace=40)


@pytest.fixture
def stage(servers: Servers, tmp_path: Path) -> Iterator[Stage]:
    fetch_model(get_spec("u2netp"), Settings.load().model_dir)
    with reserved_ports() as ports:
        made = Stage(tmp_path, ports, servers.s3)
        config = (ROOT / "deploy/docker/redis.conf").read_text()
        local = f"port {made.moved['6379']}\nbind 127.0.0.1\n"
        (tmp_path / "redis.conf").write_text(config.replace("/data", str(tmp_path)) + local)
        yield made


def test_every_service_of_ours_starts_is_healthy_works_and_ends(stage: Stage, coffee: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(stage.running("redis"))
        assert "The bucket rmbg is ready" in stage.run("bucket", stage.command("bucket")).stdout
        made = stage.run("api", [script("rmbg"), "keys", "add", "shop", "--json"])
        assert made.returncode == 0, made.stderr
        (key,) = re.findall(r'"key": ?"([^"]+)"', made.stdout)
        assert not stage.healthy("cpu0")
        stack.enter_context(stage.running("cpu0", "io", "api", "flower"))
        with ServiceClient(f"http://127.0.0.1:{stage.moved['8000']}", api_key=key) as client:
            assert client.wait(client.submit(coffee, {}))["status"] == "succeeded"
        flower = f"http://127.0.0.1:{stage.moved['5555']}"
        assert urllib3.request("GET", f"{flower}/tasks").status == 401
        headers = urllib3.make_headers(basic_auth=(stage.secrets / "flower_basic_auth").read_text())
        assert urllib3.request("GET", f"{flower}/tasks", headers=headers).status == 200
