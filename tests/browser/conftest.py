"""The browser, started once: where there is none the tests are skipped, but fail in CI."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.browser.chromium import launched

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running browser."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no chromium: apt-get install chromium")
        pytest.skip("there is no chromium: apt-get install chromium")
    with launched(program, tmp_path_factory.mktemp("chromium")) as endpoint:
        yield endpoint
