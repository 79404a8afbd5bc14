"""One service for the length of a `with` block, and the embedded servers for tests and benchmarks.

`rmbg up` supervises its services and restarts them; a test wants one that starts, and then ends.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.data_folder import load_credential
from deploy.local.ports import reserved_ports
from deploy.local.servers import StorePorts, store_service, valkey_service, valkey_url
from deploy.local.service import NotReadyError, Probe, Service, StartError
from deploy.local.supervisor import command_line, environment, kill_group, signal_group

_START_SECONDS: Final = 30.0
_LOG_LINES: Final = 10


@dataclass(frozen=True, slots=True)
class S3Address:
    """The endpoint and the keys of an object store."""

    endpoint: str
    access_key: str
    secret_key: str


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
    with log.open("ab") as output:
        process = subprocess.Popen(
            command_line(service),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment(service)),
            cwd=service.folder,
            start_new_session=True,
        )
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


@contextmanager
def embedded_valkey(folder: Path) -> Iterator[str]:
    """Run a Valkey with its data in `folder`, and yield its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    password = load_credential(folder, "valkey-password")
    with (
        reserved_ports() as ports,
        running(valkey_service(folder, ports[0], password), folder / "valkey.log"),
    ):
        yield valkey_url(ports[0], password)


@contextmanager
def embedded_store(folder: Path) -> Iterator[S3Address]:
    """Run an object store with one bucket, `rmbg`, and its data in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    access, secret = load_credential(folder, "access-key"), load_credential(folder, "secret-key")
    with reserved_ports() as ports:
        service = store_service(folder, StorePorts.take(ports), access, secret)
        with running(service, folder / "weed.log"):
            yield S3Address(service.address, access, secret)
