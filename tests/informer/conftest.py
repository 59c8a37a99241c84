"""What must be so both ways in which lists come."""

import pytest


@pytest.fixture(params=[False, True], ids=["pages", "stream"])
def streamed(request: pytest.FixtureRequest) -> bool:
    """Lists come as streams where the server serves them so."""
    return bool(request.param)
