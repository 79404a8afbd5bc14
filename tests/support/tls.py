"""TLS before the tests' Redis, with a certificate of an authority that a test makes."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from tests.support.listening import listening


@dataclass(frozen=True)
class TlsRedis:
    """Where Redis is with TLS: its URL without options, its authority, and what clients sent."""

    url: str
    authority: Path
    heard: bytearray


@contextlib.contextmanager
def tls_redis(url: str, folder: Path, host: str = "127.0.0.1") -> Iterator[TlsRedis]:
    """A Redis reached by TLS only, whose certificate names a host."""
    authority = trustme.CA()
    path = folder / f"ca-{host}.pem"
    authority.cert_pem.write_to_path(str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    parts = urlsplit(url)
    heard = bytearray()

    def connect(client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(client, server_side=True) as secure,
            socket.create_connection((parts.hostname, parts.port)) as server,
        ):
            threading.Thread(target=_copy, args=(server, secure), daemon=True).start()
            while data := secure.recv(2**16):
                heard.extend(data)
                server.sendall(data)

    with listening(connect) as port:
        address = f"rediss://:{parts.password}@127.0.0.1:{port}{parts.path}"
        yield TlsRedis(address, path, heard)


def _copy(server: socket.socket, client: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        while data := server.recv(2**16):
            client.sendall(data)
