"""Clients that others wrote upload through broken connections and killed processes."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tusclient.client import TusClient

from deploy.local import probes
from deploy.local.ports import reserved_ports
from tasks.object_store import ObjectStore
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.uploads.service import UploadService
from tasks.uploads.store import UploadStore
from tests.support.cutting_proxy import CuttingProxy, cutting_proxy
from tests.support.paths import ROOT
from tests.support.servers import Servers, running
from tests.support.service import api_service

MB = 2**20
JS = ROOT / "tests" / "clients" / "tus-js"
SMALL = (14 * MB, 3 * MB)
FULL = (200 * MB, 16 * MB)

#: Uploads a file in pieces to an address; what it printed or returned as the upload's address.
Client = Callable[[str, Path, int], str]


@dataclass(frozen=True)
class Api:
    port: int
    pid: int
    uploads: UploadService

    def kill_reader(self, port: int) -> None:
        """The process that has a connection to this port."""
        reading = [
            worker
            for worker in psutil.Process(self.pid).children()
            for connection in worker.net_connections("tcp")
            if connection.raddr and connection.raddr.port == port
        ]
        assert len(reading) == 1
        os.kill(reading[0].pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def api(
    servers: Servers, service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    env = {
        **service_environment,
        "RMBG_REDIS_URL": servers.new_database(),
        "RMBG_API_WORKERS": "2",
        "RMBG_MAX_IMAGE_MB": "256",
    }
    values = {name.removeprefix("RMBG_").lower(): value for name, value in env.items()}
    settings = Settings.load(**values)
    objects = ObjectStore.from_settings(settings)
    uploads = UploadService(UploadStore(connect(env["RMBG_REDIS_URL"])), objects, seconds=3600)
    log = tmp_path_factory.mktemp("logs") / "api.log"
    with reserved_ports() as ports:
        service = api_service(
            ports[0], env, probes.http_ok(f"http://127.0.0.1:{ports[0]}/healthz/live")
        )
        with running(service, log) as process:
            yield Api(ports[0], process.pid, uploads)


def _tuspy(endpoint: str, path: Path, chunk: int) -> str:
    with path.open("rb") as stream:
        uploader = TusClient(endpoint).uploader(
            file_stream=stream, chunk_size=chunk, retries=10, retry_delay=1, upload_checksum=True
        )
        uploader.upload()
    return str(uploader.url)


def _tus_js(endpoint: str, path: Path, chunk: int) -> str:
    if not shutil.which("node") or not (JS / "node_modules").is_dir():
        pytest.skip("needs node, and `make clients`")
    done = subprocess.run(
        ["node", "upload.mjs", endpoint, str(path), str(chunk)],
        cwd=JS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["retries"] >= 2
    return str(answer["url"])


CLIENTS = [pytest.param(_tuspy, id="tuspy"), pytest.param(_tus_js, id="tus-js-client")]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_file_arrives_through_two_cuts(api: Api, tmp_path: Path, client: Client) -> None:
    _check(api, tmp_path, client, *SMALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_large_file_arrives_through_two_cuts(api: Api, tmp_path: Path, client: Client) -> None:
    _check(api, tmp_path, client, *FULL)


def _check(api: Api, folder: Path, client: Client, size: int, chunk: int) -> None:
    path = folder / "large.bin"
    path.write_bytes(random.Random(size).randbytes(size))
    # Both in the middle of a piece.
    cuts = [(size * 3 // 10, lambda _port: None), (size * 7 // 10, api.kill_reader)]
    with cutting_proxy(api.port, cuts) as (proxy, port):
        url = client(f"http://127.0.0.1:{port}/api/v1/uploads", path, chunk)
        _assert_resumed(proxy, size, chunk)
    stream, upload = api.uploads.open("", url.rpartition("/")[2])
    assert upload.length == size
    assert hashlib.file_digest(stream, "sha256").digest() == (
        hashlib.sha256(path.read_bytes()).digest()
    )


def _assert_resumed(proxy: CuttingProxy, size: int, chunk: int) -> None:
    assert proxy.done == 2
    # The pieces that were cut off were sent again, perhaps twice where the server was slow to see
    # that its client had gone, and never the whole file.
    assert size < proxy.passed < size + min(4 * chunk, size // 2) + MB
