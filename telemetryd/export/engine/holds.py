"""What keeps all exporters of a manager from running, and which of several such things is shown.

Who holds, and why, is the daemon's affair; what a hold does to an exporter is the manager's.
"""

from dataclasses import dataclass
from typing import Final

from telemetryd.model import ExporterState

ORDER: Final = (ExporterState.DISABLED, ExporterState.STANDBY, ExporterState.WAITING)
"""States to hold in, the one that is shown first."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One thing that keeps exporters from running.

    Attributes:
        state: What held exporters show; one of ``ORDER``.
        detail: Why, in a few words.
    """

    state: ExporterState
    detail: str

    def __post_init__(self) -> None:
        if self.state not in ORDER:
            raise ValueError(f"no exporter is held in state {self.state}")


class Holds:
    """The holds in force, one a state."""

    __slots__ = ("_by_state",)

    def __init__(self) -> None:
        self._by_state: dict[ExporterState, Hold] = {}

    def put(self, hold: Hold) -> None:
        """Put a hold in force, in the place of a former one of that state."""
        self._by_state[hold.state] = hold

    def lift(self, state: ExporterState) -> bool:
        """End the hold of that state; False where there is none."""
        return self._by_state.pop(state, None) is not None

    @property
    def shown(self) -> Hold | None:
        """The one to show, None where nothing is held."""
        return next((self._by_state[each] for each in ORDER if each in self._by_state), None)
