"""TLS before the tests' servers, with a certificate of an authority that a test makes."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from tests.support.listening import listening


@dataclass(frozen=True)
class TlsServer:
    """Where a server is with TLS: its URL without options, its authority, and what clients sent."""

    url: str
    authority: Path
    heard: bytearray = field(default_factory=bytearray)
    #: An entry for each connection, trusted or not.
    connections: list[None] = field(default_factory=list)


@contextlib.contextmanager
def tls_redis(url: str, folder: Path, host: str = "127.0.0.1") -> Iterator[TlsServer]:
    """A Redis reached by TLS only, whose certificate names a host."""
    parts = urlsplit(url)
    with _tls_before(url, folder, host, f"rediss://:{parts.password}@{{}}{parts.path}") as server:
        yield server


@contextlib.contextmanager
def tls_store(endpoint: str, folder: Path, host: str = "127.0.0.1") -> Iterator[TlsServer]:
    """An object store reached by TLS only, whose certificate names a host."""
    with _tls_before(endpoint, folder, host, "https://{}") as server:
        yield server


@contextlib.contextmanager
def _tls_before(url: str, folder: Path, host: str, address: str) -> Iterator[TlsServer]:
    authority = trustme.CA()
    path = folder / f"ca-{host}.pem"
    authority.cert_pem.write_to_path(str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    parts = urlsplit(url)
    made = TlsServer("", path)

    def connect(client: socket.socket) -> None:
        made.connections.append(None)
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(client, server_side=True) as secure,
            socket.create_connection((parts.hostname, parts.port)) as server,
        ):
            threading.Thread(target=_copy, args=(server, secure), daemon=True).start()
            while data := secure.recv(2**16):
                made.heard.extend(data)
                server.sendall(data)

    with listening(connect) as port:
        place = address.format(f"127.0.0.1:{port}")
        yield TlsServer(place, path, made.heard, made.connections)


def _copy(server: socket.socket, client: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        while data := server.recv(2**16):
            client.sendall(data)
