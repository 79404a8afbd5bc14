"""`rmbg up` for real: it starts, rides out kill -9 of every child, and leaves nothing behind."""

import html
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
import urllib3
from PIL import Image
from typer.testing import CliRunner

from deploy.cli.main import app
from deploy.client import ClientError, ServiceClient
from deploy.local import service
from inference.models.registry import get_spec
from inference.models.weights import fetch_model
from tasks.settings import Settings
from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.servers import Servers
from tests.support.service import T, api_here, eventually

#: How long a start of `rmbg up` may take.
START_SECONDS = 120
#: What `ps` shows of each process.
COMMANDS = {
    "valkey": r"valkey-server",
    "weed": r"weed .*server",
    "gpu0": r"celery.* gpu0@",
    "io": r"celery.* io@",
    "api": r"gunicorn",
    "flower": r"celery.* flower",
}


@dataclass(frozen=True)
class Up:
    """A running `rmbg up`."""

    process: psutil.Popen
    data: Path
    log: Path

    @property
    def url(self) -> str:
        return str(json.loads((self.data / "run.json").read_text())["api_url"])

    def output(self) -> str:
        return self.log.read_text()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def child(self, name: str) -> psutil.Process | None:
        """The child of this name, if it runs."""
        for process in self.process.children():
            with suppress(psutil.Error):
                if re.search(COMMANDS[name], " ".join(process.cmdline())):
                    return process
        return None

    def times_ready(self, name: str) -> int:
        return self.output().count(f"rmbg    | {name} ready after")

    def wait_for(self, what: str, ask: Callable[[], T], seconds: float) -> T:
        return eventually(what, ask, seconds=seconds, show=self.output)


@contextmanager
def running_up(folder: Path, *options: str, **settings: str) -> Iterator[Up]:
    """Start `rmbg up`, its output in a file, and wait until it says that it is ready."""
    fetch_model(get_spec("u2netp"), Settings.load().model_dir)
    data, log = folder / "data", folder / "up.log"
    command = [service.script("rmbg"), "up", "--port", "0", "--data", str(data), *options]
    command += ["--workers", "1", "--start-seconds", str(START_SECONDS)]
    env = {
        n: v for n, v in os.environ.items() if not n.startswith("RMBG_") or n == "RMBG_MODEL_DIR"
    }
    with log.open("wb") as output:
        process = psutil.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=env | settings
        )
    up = Up(process, data, log)
    try:
        # A start that is not ready by its own limit ends, and its output shows why.
        started = (data / "run.json").exists
        up.wait_for("its start or end", lambda: started() or up.ended(), START_SECONDS + 40)
        assert process.poll() is None, up.output()
        yield up
    finally:
        end(up, signal.SIGTERM)


def end(up: Up, number: signal.Signals) -> None:
    """Ask it to end; if it does not, end it and what it started, and fail."""
    if up.ended():
        return
    up.process.send_signal(number)
    try:
        up.process.wait(40)
    except psutil.TimeoutExpired:
        for process in [*up.process.children(recursive=True), up.process]:
            process.kill()
        pytest.fail(f"it did not end; the output:\n{up.output()[-8000:]}")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp(r"""rené's "up", 100% $HOME; [1]*?\{x}""")
    for package in ("api", "tasks", "inference", "deploy"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    (folder / "most").write_text("77")
    settings = {"RMBG_RETENTION_HOURS": "720", "RMBG_THREADS": "", "RMBG_MAX_PENDING_FILE": "most"}
    with running_up(folder, "--flower-port", "0", **settings) as running:
        yield running


def cut_out(up: Up, photo: Path) -> bytes | None:
    """A cutout, or None while the service recovers."""
    with suppress(ClientError), ServiceClient(up.url) as client:
        return client.cut_out(photo, {"cache": "false"})
    return None


def test_the_screen_shows_what_runs_where_and_that_the_sample_was_cut_out(up: Up) -> None:
    said, sample = up.output(), up.data.resolve() / "sample-cutout.png"
    assert f"ready: {up.url}" in said
    assert f"sample  {sample}" in said
    with Image.open(sample) as cutout, Image.open(ROOT / "deploy/local/sample.jpg") as photo:
        assert (cutout.format, cutout.mode, cutout.size) == ("PNG", "RGBA", photo.size)
        assert cutout.getchannel("A").getextrema() == (0, 255)
    table = re.findall(r"│ (\S+) +│ (\d+) +│ (.+?) +│ ready │", said)
    assert [row[0] for row in table] == list(COMMANDS)
    assert {row[0]: row[2] for row in table}["api"] == up.url


def test_everything_listens_on_loopback_alone(up: Up) -> None:
    listening = [
        (process.name(), each.laddr.ip)
        for process in up.process.children(recursive=True)
        for each in process.net_connections("inet")
        if each.status in {psutil.CONN_LISTEN, psutil.CONN_NONE}
    ]
    assert len(listening) >= 4
    assert {address for _, address in listening} == {"127.0.0.1"}, listening


def test_flower_finds_a_task_by_its_id_for_who_has_its_password(up: Up, coffee: Path) -> None:
    facts = json.loads((up.data / "run.json").read_text())
    with ServiceClient(up.url) as client:
        task_id = client.submit(coffee, {"output_format": "webp"})
        client.wait(task_id)

    password = (up.data / "flower-password").read_text()
    login = urllib3.make_headers(basic_auth=f"rmbg:{password}")
    url = f"{facts['flower_url']}/task/{task_id}"

    def page() -> str | None:
        answer = urllib3.request("GET", url, headers=login, retries=False)
        text = html.unescape(answer.data.decode())
        return text if answer.status == 200 and "SUCCESS" in text else None

    text = up.wait_for("the finished task in Flower", page, 60)
    assert task_id in text
    assert "rmbg.remove" in text
    assert "'model': 'u2netp', 'format': 'webp', 'priority': 'normal'" in text
    rebound = {**login, "Host": "evil.example"}
    assert urllib3.request("GET", url, headers=rebound).status == 421
    for path in ("/api/tasks", "/api/workers", f"/task/{task_id}"):
        assert urllib3.request("GET", f"{facts['flower_url']}{path}").status == 401, path


def test_prometheus_is_told_whom_to_scrape(up: Up) -> None:
    groups = json.loads((up.data / "prometheus-targets.json").read_text())
    assert {group["labels"]["service"] for group in groups} == {"api", "io", "gpu0"}
    for group in groups:
        (target,) = group["targets"]
        answer = urllib3.request("GET", f"http://{target}/metrics")
        assert "rmbg_build_info" in answer.data.decode()


def test_secrets_are_private_and_not_on_the_screen(up: Up) -> None:
    names = ("valkey-password", "s3-access-key", "s3-secret-key", "flower-password")
    kept = [up.data / name for name in names]
    others = ("valkey/valkey.conf", "store/s3.json", "service.env")
    for path in [*kept, *(up.data / name for name in others)]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert not [path.name for path in kept if path.read_text() in up.output()]


def _shell_variables(up: Up) -> dict[str, str]:
    """What a shell without a variable has once it has read the file of settings."""
    command = f". {shlex.quote(str(up.data))}/service.env && env -0"
    lines = run_program("bash", "-euc", command, env={}).stdout
    pairs = (line.partition("=") for line in lines.split("\0") if line.startswith("RMBG_"))
    return {name: value for name, _, value in pairs}


def test_who_reads_the_file_of_settings_finds_the_service_and_agrees_with_it(
    up: Up, coffee: Path
) -> None:
    second = api_here(_shell_variables(up))
    up.wait_for(
        "its worker", lambda: [w.usable for w in second.runtime.registry.workers()] == [True], 30
    )
    second.objects.ensure_bucket()
    assert (second.objects.lifecycle_days, second.objects.has_lifecycle_rules()) == (32, True)
    # What a power failure would take is synced.
    assert second.redis.config_get("appendfsync") == {"appendfsync": "always"}
    assert second.objects.sync_dir == up.data.resolve() / "store"
    with ServiceClient(up.url) as first:
        # Who asks is told whether it is an operator; all else is the service's.
        facts = first.request("GET", "/api/v1/info")
        assert {**second.data("/api/v1/info"), "operator": True} == facts
        task_id = second.submit(image=coffee.read_bytes())
        assert first.wait(task_id)["status"] == "succeeded"


@pytest.mark.parametrize("names", [("valkey", "weed"), ("gpu0", "io", "api", "flower")])
def test_killed_children_are_back_and_the_next_photo_works(
    up: Up, names: tuple[str, ...], coffee: Path
) -> None:
    times_ready = {name: up.times_ready(name) for name in names}
    victims = {name: up.wait_for(name, partial(up.child, name), 30) for name in names}
    for victim in victims.values():
        victim.kill()

    def replaced() -> bool:
        children = {name: up.child(name) for name in names}
        return all(child not in {None, victims[name]} for name, child in children.items())

    def ready() -> bool:
        return all(up.times_ready(name) > before for name, before in times_ready.items())

    up.wait_for("new processes", replaced, 30)
    up.wait_for("processes ready", ready, 90)
    up.wait_for("a cutout", lambda: cut_out(up, coffee), 90)
    for name in names:
        assert f"rmbg    | {name} was killed by SIGKILL; restarting in" in up.output()


@pytest.mark.timeout(300)
def test_the_end_leaves_nothing_and_a_restart_finds_everything(up: Up, coffee: Path) -> None:
    """The last test here: it ends the stack that the others share."""
    url, family = up.url, up.process.children(recursive=True)
    sockets = [each for process in family for each in process.net_connections("tcp")]
    ports = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
    began = up.process.create_time()
    with ServiceClient(url) as client:
        before = client.wait(client.submit(coffee, {"cache": "false"}))
    end(up, signal.SIGINT)
    assert up.process.wait() == 0
    assert not _alive(family)
    assert not ports & {each.laddr.port for each in psutil.net_connections("tcp") if each.pid}
    # Older ones are another's, who had these ports and was killed.
    assert not [each for each in _sockets(ports) if each.stat().st_mtime > began]

    with running_up(up.data.parent, "--no-flower") as again:
        assert again.child("flower") is None
        # The same addresses, so that what was handed out before the restart stays good.
        assert again.url == url
        with ServiceClient(url) as client:
            after = client.wait(before["task_id"])
            assert after["status"] == "succeeded"
            cutouts = {client.download(each["result_url"]) for each in (before, after)}
        assert len(cutouts) == 1
        refused = CliRunner().invoke(app, ["up", "--port", "0", "--data", str(up.data)])
        assert isinstance(refused.exception, SystemExit)
        assert refused.exit_code == 2
        assert "in use by another `rmbg up`" in refused.output
        family = again.process.children(recursive=True)
        again.process.kill()
        again.process.wait(10)
        assert not _alive(family), "children of a killed `rmbg up` live on"
    for path in _sockets(ports):
        path.unlink()


def _sockets(ports: set[int]) -> list[Path]:
    """What `weed` puts into /tmp."""
    folder = Path("/tmp")  # noqa: S108 - weed's choice
    return [path for port in ports for path in folder.glob(f"seaweedfs-*-{port}.sock")]


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after a moment; zombies wait for the system's first process only."""
    end = time.monotonic() + 30
    while (alive := list(filter(_runs, processes))) and time.monotonic() < end:
        time.sleep(0.1)
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_with_servers_of_ones_own_it_starts_none(
    servers: Servers, tmp_path: Path, coffee: Path
) -> None:
    """docs/own-servers.md."""
    own = {"RMBG_REDIS_URL": servers.new_database(), "RMBG_S3_BUCKET": f"{servers.bucket}-own"}
    with running_up(tmp_path, "--flower-port", "0", **servers.s3.environment, **own) as up:
        assert not up.child("valkey")
        assert not up.child("weed")
        assert cut_out(up, coffee)
