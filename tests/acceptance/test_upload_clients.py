"""Clients that others wrote upload through broken connections and killed processes."""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest
from tusclient.client import TusClient

from tasks.runtime import Runtime
from tests.support.listening import CHUNK, listening, pass_on
from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.service import RunningApi, eventually, settings_of

MB = 2**20
JS = ROOT / "tests" / "clients" / "tus-js"

#: Uploads a file in pieces to an address; what it printed or returned as the upload's address.
Client = Callable[[str, Path, int], str]


@dataclass
class CuttingProxy:
    """Passes bytes on to a port, and cuts a connection once so many went to the server.

    Attributes:
        target: the server's port.
        cuts: total bytes after which a connection is cut, and what else happens then, which is
            called with the port of the proxy's end of that connection.
        passed: the bytes so far.
    """

    target: int
    cuts: list[tuple[int, Callable[[int], object]]]
    passed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, client: socket.socket) -> None:
        pass_on(client, self.target, self._forward)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while data := client.recv(CHUNK):
            server.sendall(data)
            with self._lock:
                self.passed += len(data)
                due = self.cuts and self.passed >= self.cuts[0][0]
                act = self.cuts.pop(0)[1] if due else None
            if act:
                act(server.getsockname()[1])
                for end in (client, server):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                return


def _kill_reader(api: RunningApi, port: int) -> None:
    """Kill the process that has a connection to this port; a busy one accepts it a little later."""
    (reader,) = eventually(
        "the connection's process",
        lambda: [
            worker
            for worker in psutil.Process(api.pid).children()
            for connection in worker.net_connections("tcp")
            if connection.raddr and connection.raddr.port == port
        ],
    )
    os.kill(reader.pid, signal.SIGKILL)


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
    done = run_program("node", "upload.mjs", endpoint, path, chunk, cwd=JS, seconds=600)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["retries"] >= 2
    return str(answer["url"])


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        pytest.param(10 * MB, 2 * MB, id="small"),
        pytest.param(200 * MB, 16 * MB, id="large", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "client", [pytest.param(_tuspy, id="tuspy"), pytest.param(_tus_js, id="tus-js-client")]
)
@pytest.mark.timeout(600)
def test_a_file_arrives_through_two_cuts(
    lone_api: RunningApi, tmp_path: Path, client: Client, size: int, chunk: int
) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(random.Random(size).randbytes(size))
    # Both in the middle of a piece.
    cuts = [(size * 3 // 10, lambda _port: None), (size * 7 // 10, partial(_kill_reader, lone_api))]
    proxy = CuttingProxy(lone_api.port, cuts)
    with listening(proxy.connect) as port:
        url = client(f"http://127.0.0.1:{port}/api/v1/uploads", path, chunk)
        assert proxy.cuts == []
        # The pieces that were cut off were sent again, perhaps twice where the server was slow to
        # see that its client had gone, and never the whole file.
        assert size < proxy.passed < size + min(4 * chunk, size // 2) + MB
    with Runtime(settings_of(lone_api.env)) as runtime:
        chunks, upload = runtime.uploads.open("", url.rpartition("/")[2])
        assert upload.length == size
        arrived = hashlib.sha256()
        for piece in chunks:
            arrived.update(piece)
    assert arrived.digest() == hashlib.sha256(path.read_bytes()).digest()
