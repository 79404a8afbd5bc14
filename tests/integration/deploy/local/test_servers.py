"""The embedded object store obeys nobody else on this machine."""

import io
import secrets
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
import urllib3
from minio import Minio

from deploy.local import servers
from deploy.local.ports import LOOPBACK, reserved_ports
from deploy.local.servers import StorePorts, store_service
from tasks.object_store import ObjectStore, sync_disk
from tests.support.paths import holds
from tests.support.servers import running
from tests.support.service import eventually

#: What a client of HTTP/2, and so of gRPC, begins with: the preface and empty settings.
HTTP2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
KEYS = ("access", "secret-of-the-store")
GRPC_PORTS = ("master_grpc", "volume_grpc", "filer_grpc", "s3_grpc")


@dataclass(frozen=True)
class Store:
    folder: Path
    ports: StorePorts


@contextmanager
def _running_store(folder: Path) -> Iterator[Store]:
    with reserved_ports() as free:
        ports = StorePorts.take(free)
        with running(store_service(folder, ports, *KEYS), folder / "weed.log"):
            yield Store(folder, ports)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with _running_store(tmp_path_factory.mktemp('rené, "store" [1]*?')) as store:
        yield store


def _is_answered(port: int, context: ssl.SSLContext | None) -> bool:
    """Return whether a server speaks gRPC with this client."""
    plain = socket.create_connection((LOOPBACK, port), timeout=10)
    try:
        with context.wrap_socket(plain) if context else plain as client:
            client.sendall(HTTP2_START)
            # A frame of settings (type 4) is the server's first word.
            return client.recv(9)[3:4] == b"\x04"
    except OSError:
        return False


def _tls(certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("name", GRPC_PORTS)
def test_grpc_is_for_the_parts_of_the_store_alone(store: Store, name: str, tmp_path: Path) -> None:
    port = getattr(store.ports, name)
    own = tmp_path / "own.pem"
    trustme.CA().issue_cert("rmbg-store").private_key_and_cert_chain_pem.write_to_path(str(own))
    for context in (None, _tls(), _tls(own)):
        assert not _is_answered(port, context)
    certificate, key = store.folder / "grpc-certificate.pem", store.folder / "grpc-key.pem"
    assert key.stat().st_mode & 0o077 == 0
    assert _is_answered(port, _tls(certificate, key))


@pytest.mark.parametrize(
    ("port", "path"),
    [
        ("master", "/col/delete?collection=rmbg"),
        ("master", "/dir/assign?collection=rmbg"),
        ("master", "/dir/lookup?volumeId=1"),
        ("master", "/vol/vacuum?garbageThreshold=0.001"),
        ("volume", "/1,01637037d6"),
        ("filer", "/buckets/rmbg/"),
        ("s3", "/rmbg"),
    ],
)
def test_http_without_keys_is_refused(store: Store, port: str, path: str) -> None:
    url = f"http://{LOOPBACK}:{getattr(store.ports, port)}{path}"
    assert urllib3.request("GET", url, retries=False).status in {401, 403, 404}


def test_what_was_stored_outlives_a_power_failure(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk as of the last sync: files that were not synced are as they were before."""
    disk, syncs = tmp_path / "disk", []

    def sync(folder: Path) -> None:
        sync_disk(folder)
        syncs.append(folder)
        shutil.copytree(folder, disk, dirs_exist_ok=True)

    monkeypatch.setattr("tasks.object_store.sync_disk", sync)
    objects = _objects(store.ports, store.folder)
    for key in ("plain", "last"):
        if key == "last":
            objects.copy("plain", "copy")
            upload = objects.begin_multipart("parts")
            tag = objects.put_part("parts", upload, 1, b"parts")
            objects.complete_multipart("parts", upload, [tag])
        objects.put(key, io.BytesIO(key.encode()), len(key), "image/png")
    assert syncs == [store.folder] * 5
    with reserved_ports() as free:
        ports = StorePorts.take(free)
        with running(store_service(disk, ports, *KEYS), tmp_path / "weed.log"):
            after = _objects(ports, None)
            found = [after.get(key) for key in ("plain", "copy", "parts", "last")]
    assert found == [b"plain", b"plain", b"parts", b"last"]


def _objects(ports: StorePorts, sync_dir: Path | None) -> ObjectStore:
    client = Minio(f"{LOOPBACK}:{ports.s3}", *KEYS, secure=False)
    return ObjectStore(client, client, "rmbg", 60, sync_dir=sync_dir)


@pytest.mark.slow
def test_a_deleted_picture_leaves_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a small one that shares its volume with much that stays."""
    # This store looks for garbage each second; the other tests copy theirs, which must not change.
    monkeypatch.setattr(servers, "_VACUUM_SECONDS", 1)
    picture, other = secrets.token_bytes(1000), secrets.token_bytes(2**20)
    with _running_store(tmp_path) as store:
        client = _objects(store.ports, None).client
        for key, data in (("picture", picture), ("other", other)):
            client.put_object("rmbg", key, io.BytesIO(data), len(data))
        assert holds(tmp_path, picture)
        client.remove_object("rmbg", "picture")
        eventually("the volume is rewritten", lambda: not holds(tmp_path, picture), seconds=300)
        assert client.get_object("rmbg", "other").read() == other
