"""API servers are dialled, directly or by proxies, as client-go does."""

from pathlib import Path

import pytest

from tests.clientgo.cases import environment, servers
from tests.clientgo.comparison import compare
from tests.clientgo.programs import Telemetryd
from tests.clientgo.table import Case

_CASES = (
    *environment.CASES,
    *servers.CASES,
)


# The recorder's ssl module grumbles about a server name beyond ASCII.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ber.example.test")
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_server_is_dialled_as_client_go_does(
    case: Case, made_certificates: Path, telemetryd: Telemetryd
) -> None:
    compare(case, made_certificates, telemetryd)
