"""The soak itself, for a minute: half an hour of it is `make soak`."""

import secrets

import pytest

from tests.faults.plugin import NOTES
from tests.faults.soak import soak

SECONDS = 60.0


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_minute_of_random_faults_breaches_nothing() -> None:
    seed = secrets.randbelow(1_000_000)
    lines: list[str] = []
    status = soak(SECONDS, seed, lines.append)
    assert status == 0, (f"seed {seed}", *lines)
    NOTES.append(f"soak of {SECONDS:.0f} s, seed {seed}: {lines[-1]}")
