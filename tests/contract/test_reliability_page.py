"""docs/reliability.md names tests that exist, and says which of them `make test` runs."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text()
#: Each test that the page names, and whether it is marked as part of `make test`.
NAMED = {name: bool(mark) for name, mark in re.findall(r"`(test_\w+)`( ⓢ)?", PAGE)}
#: Not run by `make test`, whichever of them a test or its module bears.
LEFT_OUT = {"pytest.mark.slow", "pytest.mark.gpu"}


def _marks_of_module(module: ast.Module) -> set[str]:
    """What its `pytestmark` names: a mark, or a list of them."""
    values = [
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    marks = [
        mark
        for value in values
        for mark in (value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value])
    ]
    return {ast.unparse(mark) for mark in marks}


def _tests(folder: Path) -> dict[str, set[str]]:
    """Each test's marks, its module's among them."""
    modules = [ast.parse(file.read_text()) for file in folder.rglob("test_*.py")]
    return {
        node.name: _marks_of_module(module) | {ast.unparse(each) for each in node.decorator_list}
        for module in modules
        for node in module.body
        if isinstance(node, ast.FunctionDef)
    }


TESTS = _tests(ROOT / "tests")


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name: str) -> None:
    assert name in TESTS


@pytest.mark.parametrize("name", NAMED)
def test_what_is_marked_as_run_by_make_test_is_run_by_it(name: str) -> None:
    assert NAMED[name] == TESTS[name].isdisjoint(LEFT_OUT)


def test_the_marks_of_a_module_are_its_tests_too() -> None:
    """Or the test above would pass whatever a module says."""
    slow = _marks_of_module(ast.parse("pytestmark = [pytest.mark.slow, pytest.mark.timeout(3)]"))
    assert not slow.isdisjoint(LEFT_OUT)
    assert _marks_of_module(ast.parse("pytestmark = pytest.mark.slow")) == {"pytest.mark.slow"}
