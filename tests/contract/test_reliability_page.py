"""docs/reliability.md names tests that exist, and says which of them `make test` runs."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
#: Each test that the page names, and whether it is marked as part of `make test`.
NAMED = {name: bool(mark) for name, mark in re.findall(r"`(test_\w+)`( ⓢ)?", PAGE)}
FAULTS = ROOT / "tests/acceptance/faults"


def _tests(folder: Path) -> dict[str, ast.FunctionDef]:
    return {
        node.name: node
        for file in folder.rglob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }


TESTS = _tests(ROOT / "tests")


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name: str) -> None:
    assert name in TESTS


@pytest.mark.parametrize("name", sorted(NAMED.keys() & _tests(FAULTS).keys()))
def test_what_is_marked_as_run_by_make_test_is_not_slow(name: str) -> None:
    marks = [ast.unparse(each) for each in TESTS[name].decorator_list]
    assert NAMED[name] == ("pytest.mark.slow" not in marks)
