"""docs/reliability.md names tests that exist, and says which of them `make test` runs."""

import ast
import re

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text()
#: Each test that the page names, and whether it is marked as part of `make test`.
NAMED = {name: bool(mark) for name, mark in re.findall(r"`(test_\w+)`( ⓢ)?", PAGE)}
LEFT_OUT = {"pytest.mark.slow", "pytest.mark.gpu"}


def _left_out(marks: list[ast.expr]) -> bool:
    """Whether `make test` leaves out what has these marks, or lists of them."""
    lists = [each.elts if isinstance(each, (ast.List, ast.Tuple)) else [each] for each in marks]
    return any(ast.unparse(mark) in LEFT_OUT for each in lists for mark in each)


def _tests() -> dict[str, bool]:
    """Each test, and whether `make test` runs it."""
    found = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        body = ast.parse(file.read_text()).body
        assigned = [each for each in body if isinstance(each, ast.Assign)]
        module = [a.value for a in assigned if ast.unparse(a.targets[0]) == "pytestmark"]
        for node in body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = not _left_out([*module, *node.decorator_list])
    return found


TESTS = _tests()


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists_and_is_run_by_make_test_if_the_page_says_so(name: str) -> None:
    assert name in TESTS
    assert NAMED[name] == TESTS[name]
