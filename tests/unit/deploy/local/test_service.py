from pathlib import Path

import pytest

from deploy.local import service
from deploy.local.service import SetupError


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        service.script("no-such-program")
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        service.require_module("no_such_package")


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/", {"memory.max": "700000"}, 700_000),
        ("0::/a.slice/b.service", {"a.slice/memory.max": "5000"}, 5000),
        ("0::/a/b", {"a/memory.max": "5000", "a/b/memory.max": "max"}, 5000),
        ("3:cpu:/\n4:memory:/docker/1\n0::/", {"memory/memory.limit_in_bytes": "6000"}, 6000),
        ("4:memory:/a:b", {"memory/a:b/memory.limit_in_bytes": "6000"}, 6000),
        ("3:cpu:/", {"memory/memory.limit_in_bytes": "6000", "memory.max": "1"}, None),
        ("0::/", {"memory.max": "9" * 19}, None),
    ],
    ids=["container", "slice", "within", "version 1", "colon", "other", "none"],
)
def test_memory_is_that_of_the_control_groups(
    tmp_path: Path, own: str, limits: dict[str, str], expected: int | None
) -> None:
    (tmp_path / "own").write_text(f"{own}\n")
    for name, limit in limits.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    found = service.memory_bytes(tmp_path / "groups", tmp_path / "own")
    assert found == (expected or service.memory_bytes(own=tmp_path / "none"))
