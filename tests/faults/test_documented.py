"""`docs/faults.md` names a test for each row of the matrix, or says that there is none."""

import ast
import re
from functools import cache
from pathlib import Path

from tests.faults import answers, data, outages  # noqa: F401 - they add to the matrix
from tests.faults.matrix import MATRIX

ROOT = Path(__file__).parents[2]
ROWS = 70
_ROW = re.compile(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_SCENARIO = re.compile(r"Matrix `(\w+)`")


def documented() -> dict[int, str]:
    text = (ROOT / "docs" / "faults.md").read_text()
    rows = _ROW.findall(text)
    assert [int(number) for number, _ in rows] == list(range(1, ROWS + 1))
    return {int(number): shown for number, shown in rows}


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_every_row_names_tests_that_exist_or_says_that_it_has_none() -> None:
    for number, shown in documented().items():
        tests = _TEST.findall(shown)
        for path, name in tests:
            assert name in functions(path), (number, path, name)
        assert tests or _SCENARIO.findall(shown) or "no test" in shown, number


def test_every_scenario_is_named_in_each_of_its_rows_and_in_no_other() -> None:
    named = {
        (number, name)
        for number, shown in documented().items()
        for name in _SCENARIO.findall(shown)
    }
    assert named == {(row, each.name) for each in MATRIX for row in each.rows}
