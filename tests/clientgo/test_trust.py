"""API servers are trusted as client-go trusts them."""

from pathlib import Path

import pytest

from tests.clientgo.cases import trust
from tests.clientgo.comparison import compare
from tests.clientgo.programs import Telemetryd
from tests.clientgo.table import Case

_CASES = (*trust.CASES,)


# The recorder's ssl module grumbles about a server name beyond ASCII.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ber.example.test")
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_server_is_trusted_as_client_go_does(
    case: Case, made_certificates: Path, telemetryd: Telemetryd
) -> None:
    compare(case, made_certificates, telemetryd)
