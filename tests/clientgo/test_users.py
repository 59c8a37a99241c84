"""Users of kubeconfigs log in as client-go has them log in."""

from pathlib import Path

import pytest

from tests.clientgo.cases import entries, plugins
from tests.clientgo.comparison import compare
from tests.clientgo.programs import Telemetryd
from tests.clientgo.table import Case

_CASES = (
    *entries.CASES,
    *plugins.CASES,
)


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_user_logs_in_as_client_go_does(
    case: Case, made_certificates: Path, telemetryd: Telemetryd
) -> None:
    compare(case, made_certificates, telemetryd)
