"""One service for the length of a `with` block, and the embedded servers for tests and benchmarks.

`rmbg up` supervises its services and restarts them; a test wants one that starts, and then ends.
"""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from deploy.local.data_folder import load_credential
from deploy.local.ports import reserved_ports
from deploy.local.servers import StorePorts, store_service, valkey_service, valkey_url
from deploy.local.service import NotReadyError, Probe, Service, StartError
from deploy.local.supervisor import command_line, environment, kill_group, signal_group

_START_SECONDS: Final = 30.0
_LOG_LINES: Final = 10

#: Redis databases of each test process.
DATABASES: Final = 64

#: The object store also answers for https://<bucket>.<this>, to whoever names it as a proxy.
STORE_DOMAIN: Final = "s3.test"
#: Users of the object store who may not do all that the service does; the secret is the name twice.
LIMITED_USERS: Final = {"reader": ["Read", "List"], "writer": ["Read", "Write"]}


@dataclass(frozen=True, slots=True)
class S3Address:
    """The endpoint and the keys of an object store."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The settings by which a process of the service reaches it."""
        return {
            "RMBG_S3_ENDPOINT": self.endpoint,
            "RMBG_S3_ACCESS_KEY": self.access_key,
            "RMBG_S3_SECRET_KEY": self.secret_key,
        }


def wait_until(probe: Probe, *, since: float, seconds: float, interval: float = 0.1) -> None:
    """Call a probe until it passes.

    Raises:
        NotReadyError: it did not pass within that many seconds; with its last reason.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return probe(since)
        except NotReadyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(interval)


def spawn(service: Service, log: Path) -> subprocess.Popen[bytes]:
    """Start a service in a session of its own; its output is appended to the log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command_line(service),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment(service)),
            cwd=service.folder,
            start_new_session=True,
        )


@contextmanager
def running(
    service: Service, log: Path, *, seconds: float = _START_SECONDS
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a service, wait until it is ready, and end its whole process group after the block.

    Args:
        service: what to start.
        log: file that its output is appended to.
        seconds: how long it may take to become ready.

    Raises:
        StartError: it ended or did not become ready; with the last lines of its output.
    """
    since = time.time()
    process = spawn(service, log)
    try:
        _wait_until_ready(service, process, since, seconds, log)
        yield process
    finally:
        _end(service, process)


def _wait_until_ready(
    service: Service, process: subprocess.Popen[bytes], since: float, seconds: float, log: Path
) -> None:
    def probe(start: float) -> None:
        if process.poll() is not None:
            raise StartError(_with_last_lines(service, f"ended with {process.returncode}", log))
        service.probe(start)

    try:
        wait_until(probe, since=since, seconds=seconds, interval=service.probe_interval)
    except NotReadyError as error:
        raise StartError(
            _with_last_lines(service, f"is not ready after {seconds:g} s: {error}", log)
        ) from error


def _with_last_lines(service: Service, what: str, log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join([f"{service.name} {what}. Its last lines:", *lines])


def _end(service: Service, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(service.stop_signal)
    try:
        process.wait(service.grace)
    except subprocess.TimeoutExpired:
        signal_group(process.pid, signal.SIGKILL)
        process.wait()
    kill_group(process.pid)
    service.remove_leftovers()


@dataclass
class Servers:
    """A Valkey and a SeaweedFS, and the databases and the bucket that one process may use.

    Attributes:
        valkey: URL of database 0 of the Valkey.
        s3: the SeaweedFS.
        process: number of the test process, which has databases and a bucket of its own.
    """

    valkey: str
    s3: S3Address
    process: int = 0
    _used: int = 0

    @property
    def bucket(self) -> str:
        """Name of this process's bucket."""
        return f"rmbg-{self.process}"

    def redis_url(self, number: int = 0) -> str:
        """Return the URL of this process's database with a number; 0 is emptied for each test."""
        if not 0 <= number < DATABASES:
            raise ValueError(f"database {number}: a test process has {DATABASES}")
        return f"{self.valkey.removesuffix('/0')}/{self.process * DATABASES + number}"

    def new_database(self) -> str:
        """Return the URL of a database that no other test uses."""
        self._used += 1
        return self.redis_url(self._used)

    def settings(self, redis_url: str, **more: object) -> dict[str, object]:
        """Return what `Settings.load` needs to reach the servers, without API keys."""
        return {
            "redis_url": redis_url,
            "s3_endpoint": self.s3.endpoint,
            "s3_public_endpoint": None,
            "s3_access_key": self.s3.access_key,
            "s3_secret_key": self.s3.secret_key,
            "s3_bucket": self.bucket,
            "host": "testhost",
            "auth": "off",
            **more,
        }


@contextmanager
def embedded_servers(processes: int) -> Iterator[Servers]:
    """Run a Valkey for so many test processes, and an object store, in a temporary folder."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="rmbg-tests-")))
        valkey = stack.enter_context(embedded_valkey(folder / "valkey", processes * DATABASES))
        store = stack.enter_context(embedded_store(folder / "store"))
        yield Servers(valkey, store)


@contextmanager
def embedded_valkey(folder: Path, databases: int = 1) -> Iterator[str]:
    """Run a Valkey with its data in `folder`, and yield its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    password = load_credential(folder, "valkey-password")
    with reserved_ports() as ports:
        service = valkey_service(folder, ports[0], password)
        # Tests cut no power, and a write that waits for the disk takes four times as long.
        command = (*service.command, "--databases", str(databases), "--appendfsync", "no")
        with running(replace(service, command=command), folder / "valkey.log"):
            yield valkey_url(ports[0], password)


@contextmanager
def embedded_store(folder: Path) -> Iterator[S3Address]:
    """Run an object store with one bucket, `rmbg`, and its data in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    access, secret = load_credential(folder, "access-key"), load_credential(folder, "secret-key")
    with reserved_ports() as ports:
        service = store_service(folder, StorePorts.take(ports), access, secret)
        _add_limited_users(folder / "s3.json")
        command = (*service.command, f"-s3.domainName={STORE_DOMAIN}")
        with running(replace(service, command=command), folder / "weed.log"):
            yield S3Address(service.address, access, secret)


def _add_limited_users(path: Path) -> None:
    config = json.loads(path.read_text())
    config["identities"] += [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": name * 2}],
            "actions": actions,
        }
        for name, actions in LIMITED_USERS.items()
    ]
    path.write_text(json.dumps(config))
