"""Pods log in with their service account as client-go does."""

from pathlib import Path

import pytest

from tests.clientgo.cases import pods
from tests.clientgo.comparison import compare
from tests.clientgo.programs import Telemetryd
from tests.clientgo.table import Case


# The recorder's ssl module grumbles about a server name beyond ASCII.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ber.example.test")
@pytest.mark.parametrize("case", pods.CASES, ids=lambda case: case.name)
def test_pod_logs_in_as_client_go_does(
    case: Case, made_certificates: Path, telemetryd: Telemetryd
) -> None:
    compare(case, made_certificates, telemetryd)
