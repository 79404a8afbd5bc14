"""Listeners on loopback, for as long as a test needs them, and how they pass bytes on."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

#: Bytes that are passed on at a time.
CHUNK: Final = 2**16


@contextlib.contextmanager
def listening(connect: Callable[[socket.socket], None]) -> Iterator[int]:
    """Its port. `connect` gets each connection, in a thread of its own."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=connect, args=(client,), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def pass_on(
    client: socket.socket,
    port: int,
    forward: Callable[[socket.socket, socket.socket], object] = _copy,
) -> None:
    """Pass a connection on to a port, in both directions, until its ends are closed.

    `forward`, which gets the client and the server, takes the client's bytes to the server.
    """
    with (
        client,
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port)) as server,
    ):
        back = threading.Thread(target=_copy, args=(server, client), daemon=True)
        back.start()
        forward(client, server)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)
        back.join()
