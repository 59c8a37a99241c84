"""The switches in the environment: they turn collection off whatever the file says, never on.

What turning it off means doesn't belong here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from telemetryd.config.values import show
from telemetryd.errors import Problem

ENABLED_VARIABLE: Final = "TELEMETRYD_ENABLED"
DO_NOT_TRACK_VARIABLE: Final = "DO_NOT_TRACK"

_YES: Final = frozenset({"true", "1", "yes", "on"})
_NO: Final = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class EnvironmentSwitches:
    """What the environment leaves on.

    Attributes:
        enabled: False where ``TELEMETRYD_ENABLED`` says so.
        tracking: False where ``DO_NOT_TRACK`` is set to anything that isn't a no.
    """

    enabled: bool
    tracking: bool


def read_switches(environ: Mapping[str, str]) -> EnvironmentSwitches:
    """The switches of an environment; unset and empty leave everything on.

    What neither says yes nor no is never taken as leave to collect.
    """
    enabled = environ.get(ENABLED_VARIABLE, "").strip().lower()
    do_not_track = environ.get(DO_NOT_TRACK_VARIABLE, "").strip().lower()
    return EnvironmentSwitches(
        enabled=not enabled or enabled in _YES, tracking=not do_not_track or do_not_track in _NO
    )


def find_problem(environ: Mapping[str, str]) -> Problem | None:
    """What is wrong with ``TELEMETRYD_ENABLED``, None where nothing is."""
    given = environ.get(ENABLED_VARIABLE, "").strip()
    if not given or given.lower() in _YES | _NO:
        return None
    return Problem(f"${ENABLED_VARIABLE}", "", f"is {show(given)}: must be true or false")
