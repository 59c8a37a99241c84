"""What is recorded of client-go is what it does, and kubectl does the same."""

from pathlib import Path

import pytest

from tests.clientgo import recorded
from tests.clientgo.cases import CASES
from tests.clientgo.comparison import compare_recorded
from tests.clientgo.table import Case

_EVERY = 50
"""Of so many cases `make test` tries one."""


def test_each_case_is_recorded() -> None:
    assert list(recorded.facts()) == [case.name for case in CASES]


# The recorder's ssl module grumbles about a server name beyond ASCII.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ber.example.test")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=pytest.mark.long if number % _EVERY else ())
        for number, case in enumerate(CASES)
    ],
)
def test_client_go_does_as_recorded_and_kubectl_too(
    case: Case, oracles: tuple[Path, Path], made_certificates: Path
) -> None:
    compare_recorded(case, oracles, made_certificates)
