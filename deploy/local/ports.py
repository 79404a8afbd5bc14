"""Free ports on loopback, reserved against other `rmbg up` and tests on this machine."""

import os
import random
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.local.service import SetupError

LOOPBACK: Final = "127.0.0.1"
#: Below the range from which Linux and macOS take the ports of outgoing connections. Within that
#: range, a client that keeps connecting to a stopped server may get the server's port as its own,
#: and connect to itself.
_FIRST: Final = 20_000
_LAST: Final = 31_999
_BLOCK_SIZE: Final = 32
#: Where SeaweedFS keeps its Unix sockets, which it names by its ports; it has no option for that.
SOCKET_FOLDER: Final = Path("/tmp")  # noqa: S108 - a name is not chosen here
_SOCKET: Final = re.compile(r"seaweedfs-[a-z0-9-]+-(\d+)\.sock")


@contextmanager
def reserved_ports(preferred: int | None = None) -> Iterator[list[int]]:
    """Reserve a block of free ports for as long as the context lasts.

    The block's first port is kept bound as a guard, so that two callers never share a block even
    before their servers listen. The other ports are free to be bound, and no other user's SeaweedFS
    has left a socket for them. A `preferred` port, the first that an earlier call returned, gets
    the same block again.

    Raises:
        SetupError: there is no free block.
    """
    blocks = list(range(_FIRST, _LAST + 2 - _BLOCK_SIZE, _BLOCK_SIZE))
    random.SystemRandom().shuffle(blocks)
    obstructed = _ports_of_other_users()
    for first in [preferred - 1, *blocks] if preferred else blocks:
        guard = _bind(first, shared=False)
        if guard is None:
            continue
        with guard:
            ports = list(range(first + 1, first + _BLOCK_SIZE))
            if obstructed.isdisjoint(ports) and all(is_free(port) for port in ports):
                yield ports
                return
    raise SetupError(
        f"No {_BLOCK_SIZE} consecutive ports are free between {_FIRST} and {_LAST} on {LOOPBACK}: "
        "stop some of the servers that listen there."
    )


def _ports_of_other_users() -> set[int]:
    """Return the ports of SeaweedFS's sockets that are another user's, and stay if it was killed.

    A server could not put its own in their place: `/tmp` lets only their owner and root do that.
    """
    user, found = os.geteuid(), set[int]()
    for path in SOCKET_FOLDER.glob("seaweedfs-*.sock") if user else ():
        match = _SOCKET.fullmatch(path.name)
        try:
            if match and path.lstat().st_uid != user:
                found.add(int(match[1]))
        except FileNotFoundError:
            continue
    return found


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of loopback now."""
    bound = _bind(port, shared=True)
    if bound is None:
        return False
    bound.close()
    return True


def require_free(port: int, option: str) -> None:
    """Check that a port is free, and name the option that chose it if it is not.

    Raises:
        SetupError: it is taken, or this user may not bind it.
    """
    if not is_free(port):
        raise SetupError(
            f"Port {port} of {LOOPBACK} is taken: stop the server that listens there, or give "
            f"{option} another number (0 takes any free port; with make: ARGS='{option} 0')."
        )


def _bind(port: int, *, shared: bool) -> socket.socket | None:
    """Return a socket that is bound to this port, or None.

    `shared` binds it as servers do, so that connections that are still closing are no obstacle.
    Two shared sockets may have the same port until one listens: a guard is not shared.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared))
    try:
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        return None
    return bound
