"""Kubeconfigs are read as client-go reads them."""

from pathlib import Path

import pytest

from tests.clientgo.cases import distributions, syntax
from tests.clientgo.comparison import compare
from tests.clientgo.programs import Telemetryd
from tests.clientgo.table import Case

_CASES = (
    *distributions.CASES,
    *syntax.CASES,
)


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_kubeconfig_is_read_as_client_go_does(
    case: Case, made_certificates: Path, telemetryd: Telemetryd
) -> None:
    compare(case, made_certificates, telemetryd)
