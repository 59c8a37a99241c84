"""The table of differences is well formed and complete."""

from tests.clientgo import differences
from tests.clientgo.cases import CASES


def test_table_names_each_case_once_and_only_cases_that_exist() -> None:
    names = [case.name for case in CASES]
    documented = [name for difference in differences.DOCUMENTED for name in difference.cases]
    assert len(names) >= 200
    assert len(set(names)) == len(names)
    assert len(set(documented)) == len(documented)
    assert set(documented) <= set(names)


def test_every_difference_gives_its_reason() -> None:
    for difference in differences.DOCUMENTED:
        assert all((difference.input, difference.theirs, difference.ours, difference.reason)), (
            difference
        )
        assert difference.cases, difference
