"""The cases, by what is special about them."""

from typing import Final

from tests.clientgo.cases import (
    distributions,
    entries,
    environment,
    plugins,
    pods,
    servers,
    syntax,
    trust,
)
from tests.clientgo.table import Case

CASES: Final[tuple[Case, ...]] = (
    *syntax.CASES,
    *entries.CASES,
    *servers.CASES,
    *environment.CASES,
    *pods.CASES,
    *trust.CASES,
    *plugins.CASES,
    *distributions.CASES,
)
