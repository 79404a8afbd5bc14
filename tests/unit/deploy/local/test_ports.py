"""Blocks of free ports: never shared."""

import os
import socket
from pathlib import Path

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


def test_a_block_is_skipped_where_another_user_has_left_a_socket_of_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.ports.SOCKET_FOLDER", tmp_path)
    with reserved_ports() as first:
        (tmp_path / f"seaweedfs-master-grpc-{first[3]}.sock").touch()
    with reserved_ports(preferred=first[0]) as own:
        assert own == first, "one's own is put in its place"
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with reserved_ports(preferred=first[0]) as second:
        assert first[3] not in second
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with reserved_ports(preferred=first[0]) as third:
        assert third == first, "root may put its own in the place of anybody's"
