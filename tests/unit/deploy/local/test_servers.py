"""What the embedded servers are started with."""

from pathlib import Path

import pytest

from deploy.local import service
from deploy.local.servers import valkey_service


@pytest.mark.parametrize(("memory", "limit"), [(2**34, 2**31), (2**30, 2**28)])
def test_valkey_has_an_eighth_of_the_memory_and_a_least(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: int, limit: int
) -> None:
    monkeypatch.setattr(service, "memory_bytes", lambda: memory)
    valkey_service(tmp_path, 6379, "secret")
    lines = (tmp_path / "valkey.conf").read_text().splitlines()
    assert {f"maxmemory {limit}", "maxmemory-policy noeviction"} < {*lines}
