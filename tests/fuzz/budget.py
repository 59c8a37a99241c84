"""How many examples a fuzz test takes, by the profile of the run."""

import os
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support import sampling

SLOW: Final = settings.get_current_profile_name() == "slow"
SLOW_FACTOR: Final = int(os.environ.get("FUZZ_FACTOR", "50"))
"""So many times the examples of `make test-long` are tried by `make fuzz`."""
TIMEOUT_S: Final = 3600 if SLOW else 600

patient = pytest.mark.timeout(TIMEOUT_S)
"""Of a test: long enough for the slow profile."""
fuzzing = pytest.mark.hypothesis
"""Of a test whose property is inside: `make test-long` tries all of its examples."""


def examples(quick: int) -> int:
    """Examples of this run, given those of `make test-long`: `make test` takes a share of them."""
    return quick * SLOW_FACTOR if SLOW else sampling.examples(quick)


def budget(quick: int, **changes: Any) -> settings:
    """Settings of a fuzz test that takes so many examples in `make test-long`.

    What an example takes depends on the machine, so it has no deadline. One that fails isn't made
    smaller: with a whole daemon behind each try that may take an hour.
    """
    return settings(
        settings(),
        max_examples=examples(quick),
        deadline=None,
        phases=[Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
        **changes,
    )
