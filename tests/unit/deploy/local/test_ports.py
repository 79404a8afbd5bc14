"""Blocks of free ports: never shared."""

import socket

import pytest

from deploy.local.ports import LOOPBACK, is_free, require_free, reserved_ports
from deploy.local.service import SetupError


def test_two_blocks_of_ports_never_overlap() -> None:
    with reserved_ports() as one, reserved_ports(preferred=one[0]) as other:
        assert not set(one) & set(other)
        assert all(is_free(port) for port in [*one, *other])


def test_a_block_with_a_taken_port_is_skipped() -> None:
    with reserved_ports() as first:
        taken = first[3]
    with socket.create_server((LOOPBACK, taken)), reserved_ports(preferred=first[0]) as second:
        assert taken not in second
        with pytest.raises(SetupError, match="--port"):
            require_free(taken, "--port")
