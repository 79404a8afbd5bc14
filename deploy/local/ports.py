"""Free ports on loopback that no other `rmbg up` or test on this machine takes meanwhile."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from deploy.local.service import SetupError

LOOPBACK: Final = "127.0.0.1"
#: Below the ports that Linux and macOS hand to outgoing connections. Inside that range, a client
#: that keeps trying a dead server can be given the server's own port, and connect to itself.
_FIRST: Final = 20_000
_LAST: Final = 31_999
_BLOCK: Final = 32


@contextmanager
def reserved_ports(preferred: int | None = None) -> Iterator[list[int]]:
    """A block of free ports, ours while the context lasts.

    The block's first port is held open as a guard, so that two callers never share a block even
    in the seconds before their servers listen. The others are free to be bound.

    Args:
        preferred: first free port that an earlier call returned, to get the same block again.

    Raises:
        SetupError: there is no free block.
    """
    for first in _candidates(preferred):
        guard = _bound(first, shared=False)
        if guard is None:
            continue
        with guard:
            ports = list(range(first + 1, first + _BLOCK))
            if all(is_free(port) for port in ports):
                yield ports
                return
    raise SetupError(f"There are no {_BLOCK} free ports in a row between {_FIRST} and {_LAST}.")


def _candidates(preferred: int | None) -> list[int]:
    blocks = list(range(_FIRST, _LAST + 2 - _BLOCK, _BLOCK))
    random.SystemRandom().shuffle(blocks)
    return [preferred - 1, *blocks] if preferred else blocks


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    held = _bound(port, shared=True)
    if held is None:
        return False
    held.close()
    return True


def require_free(port: int, option: str) -> None:
    """Say which option to change when a port is taken.

    Raises:
        SetupError: it is taken, or may not be used.
    """
    if not is_free(port):
        raise SetupError(
            f"Port {port} of {LOOPBACK} is taken: end what listens there, or use {option} "
            "with another number (0 takes any free one)."
        )


def _bound(port: int, *, shared: bool) -> socket.socket | None:
    """A socket with this port, or None.

    Shared, as servers do: connections that are still closing are no obstacle. But two such
    sockets may have the same port until one listens, so a guard is not shared.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared))
    try:
        held.bind((LOOPBACK, port))
    except OSError:
        held.close()
        return None
    return held
