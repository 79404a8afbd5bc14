"""The hand-written pages name modules, keys and pages that exist, and make a site of their own."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from docs.pictures import diagrams
from docs.site_pages import FROM_ROOT
from tasks.jobs.job import Status
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


def test_every_step_of_a_request_is_in_the_file_that_is_named() -> None:
    steps = re.findall(r"^\| [^|`]+ \| (`\w[^|]+) \| (`\w[^|]+) \|$", ARCHITECTURE, re.MULTILINE)
    assert len(steps) > 10
    for functions, files in steps:
        text = "".join((ROOT / path).read_text() for path in re.findall(r"`([^`]+)`", files))
        for owner, name in re.findall(r"`(?:(\w+)\.)?(\w+)`", functions):
            assert re.search(rf"def {name}\(|^commands\.{name} =", text, re.MULTILINE), name
            assert owner in {"", "commands"} or f"class {owner}" in text, owner


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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a page without a place in it fails."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_asks_no_other_host(site: Path) -> None:
    pages = [path.read_text() for path in site.rglob("*.html")]
    assert len(pages) > 40
    for text in pages:
        for tag in re.findall(r"<(?:script|link|img|iframe|source|video|form)\b[^>]*>", text):
            assert not re.search(r"""(?:src|href|action|srcset)=["']?(?:https?:)?//""", tag), tag
        # Material's script would fetch Mermaid's for it.
        assert not re.search(r'class="(?:language-)?mermaid', text)
    for path in site.rglob("*.css"):
        assert not re.search(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", path.read_text())


def test_a_page_has_the_same_blocks_in_the_site_as_on_a_git_host(site: Path) -> None:
    """The site's Markdown wants four spaces in lists, and a blank line before each."""
    git_host = MarkdownIt("commonmark").enable("table")
    elements = {"list_item_open": "li", "table_open": "table", "tr_open": "tr", "fence": "pre"}
    pages = {path.relative_to(ROOT / "docs").as_posix(): path for path in PAGES[3:]}
    for name, page in {**pages, **{name: ROOT / path for name, path in FROM_ROOT.items()}}.items():
        kinds = Counter(token.type for token in git_host.parse(page.read_text()))
        expected = {element: kinds[kind] for kind, element in elements.items()}
        file = re.sub("README.html$", "index.html", name.replace(".md", ".html"))
        (article,) = re.findall(r"<article.*</article>", (site / file).read_text(), re.DOTALL)
        found = {each: len(re.findall(rf"<{each}[ >]", article)) for each in elements.values()}
        assert found == expected, page.name


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_a_diagram_is_drawn_from_what_the_service_has(name: str) -> None:
    picture = ROOT / "docs" / "pictures" / name
    assert picture.read_text() == diagrams.DIAGRAMS[name](), "python -m docs.pictures.diagrams"
    assert f"(pictures/{name})" in ARCHITECTURE
    lua = (ROOT / "tasks" / "lua" / "jobs.lua").read_text()
    labels = ", ".join(" ".join(arrow.words) for arrow in diagrams.ARROWS)
    for command in re.sub(r" \(the \w+\)", "", labels).split(", "):
        assert f"commands.{command}" in lua, command
    assert set(diagrams.STATES) == set(Status)


@pytest.mark.slow
def test_the_files_of_a_request_are_those_of_the_architecture_page() -> None:
    """The path that the page shows is the one that a request takes."""
    trace = [sys.executable, "-m", "benchmarks.request_files"]
    done = subprocess.run(trace, cwd=ROOT, capture_output=True, text=True, check=True)
    assert _files(done.stdout) == _files(ARCHITECTURE.partition("<!-- request files -->")[2])


def _files(table: str) -> set[str]:
    return set(re.findall(r"^\| \d+ \| `([^`]+)`", table, re.MULTILINE))
