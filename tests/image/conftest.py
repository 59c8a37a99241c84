"""The image, built twice."""

from collections.abc import Callable

import pytest

from tests.image.engine import Engine

TAGS = ("telemetryd:one", "telemetryd:two")


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The container engine of this machine."""
    return Engine()


@pytest.fixture(scope="session")
def images(engine: Engine) -> tuple[str, str]:
    """Two images of the same tree, built one after the other without a cache."""
    for tag in TAGS:
        engine.build(tag)
    return TAGS


@pytest.fixture(scope="session")
def image(images: tuple[str, str]) -> str:
    """One of them."""
    return images[0]


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line among the results: what was measured."""
    return request.config.get_terminal_writer().line
