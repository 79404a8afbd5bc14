"""The hand-written pages name modules, keys and pages that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT, anchors

ROOMS = ("api", "tasks", "inference", "deploy")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
#: A decision describes the tree of its day; the changelog names what is gone.
UP_TO_DATE = [page for page in PAGES if "adr" not in page.parts and page.name != "CHANGELOG.md"]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", UP_TO_DATE, ids=_name)
def test_every_path_that_is_named_exists(page: Path) -> None:
    rooms = "|".join((*ROOMS, "tests", "docs", "benchmarks"))
    for path in re.findall(rf"`((?:{rooms})/[\w./*-]+)`", page.read_text()):
        # What an operator makes is not in the repository.
        if not path.startswith("deploy/docker/secrets/"):
            assert list(ROOT.glob(path.rstrip("/"))), path


def _mapped() -> Iterator[str]:
    """The paths of the map in CONTRIBUTING, whose folders are told by indentation."""
    (block,) = re.findall(
        r"## Map of the tree\n.*?```text\n(.*?)```",
        (ROOT / "CONTRIBUTING.md").read_text(),
        re.DOTALL,
    )
    folders: list[str] = []
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        if name.endswith(".py"):
            yield "".join(folders)


def test_the_map_of_the_tree_has_every_module() -> None:
    modules = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert set(_mapped()) == modules


def _normalized(key: str) -> str:
    """A key with each of its variable parts as `<>`."""
    return re.sub(r"<[^>]*>|\{[^}]*\}", "<>", key)


def _keys_of_lua() -> set[str]:
    texts = [path.read_text() for path in (ROOT / "tasks").rglob("*.lua")]
    return {
        key for text in texts for key in re.findall(r"^-- (rmbg:\S+(?: key>)?)", text, re.MULTILINE)
    }


def _keys_of_python() -> set[str]:
    texts = [path.read_text() for path in (ROOT / "tasks").rglob("*.py")]
    return {
        f"rmbg:{key}"
        for text in texts
        for key in re.findall(r'f"\{(?:redis_keys\.)?PREFIX\}([^"]+)"', text)
        if not key.startswith("{name")  # an environment variable's name
    }


def test_every_key_in_redis_is_documented() -> None:
    lua, python = _keys_of_lua(), _keys_of_python()
    assert len(lua) > 20
    assert len(python) > 30
    documented = {_normalized(key) for key in re.findall(r"`(rmbg:[^`]+)`", ARCHITECTURE)}
    assert {key for key in lua | python if _normalized(key) not in documented} == set()
