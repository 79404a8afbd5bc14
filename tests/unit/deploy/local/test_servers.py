"""What the embedded servers are started with."""

import stat
from pathlib import Path

import pytest

from deploy.local import service
from deploy.local.screen import Logs
from deploy.local.servers import StorePorts, store_service, valkey_service


@pytest.mark.parametrize(("memory", "limit"), [(2**34, 2**31), (2**30, 2**28)])
def test_valkey_has_an_eighth_of_the_memory_and_a_least(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: int, limit: int
) -> None:
    monkeypatch.setattr(service, "memory_bytes", lambda: memory)
    valkey_service(tmp_path, 6379, "secret")
    lines = (tmp_path / "valkey.conf").read_text().splitlines()
    assert {f"maxmemory {limit}", "maxmemory-policy noeviction"} < {*lines}


def test_other_users_reach_no_file_of_the_servers_in_a_folder_that_they_could_read(
    tmp_path: Path,
) -> None:
    for name in ("valkey", "store", "logs"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    valkey_service(tmp_path / "valkey", 6379, "secret")
    store_service(tmp_path / "store", StorePorts(*range(1, 9)), "key", "secret")
    Logs(tmp_path / "logs")
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o700}
