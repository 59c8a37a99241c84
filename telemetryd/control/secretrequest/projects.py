"""The local cluster's System project, kept up to date from the informer of all projects.

What it decides is ``decision``'s.
"""

from collections.abc import Callable

from telemetryd.control.secretrequest.decision import SystemProjects
from telemetryd.informer.resource import Reader
from telemetryd.model import Delta, ProjectRecord

_LOCAL = "local/"
"""Begins the keys of the local cluster's projects; each other cluster has a System project too."""


class SystemProjectWatch:
    """Follows the changes of projects: what an event costs doesn't depend on how many there are."""

    def __init__(self, projects: Reader[ProjectRecord], on_change: Callable[[], None]) -> None:
        """Look at all projects once, and follow them until ``close``.

        Args:
            projects: Of all clusters.
            on_change: Called when ``found()`` has changed.
        """
        self._projects = projects
        self._on_change = on_change
        self._names: set[str] = set()
        self._ends = (projects.subscribe(self._apply), projects.on_change(self._compare))
        self._last = self.found()

    def found(self) -> SystemProjects:
        """The local cluster's System project, as far as it is known."""
        if not self._projects.synced:
            status = self._projects.status()
            why = status.last_error or "first list"
            return SystemProjects((), f"{status.resource} not synced: {why}")
        return SystemProjects(tuple(sorted(self._names)))

    def close(self) -> None:
        """Follow the projects no longer."""
        for end in self._ends:
            end()

    def _apply(self, delta: Delta[ProjectRecord]) -> None:
        if not delta.key.startswith(_LOCAL):
            return
        name = delta.key.removeprefix(_LOCAL)
        if isinstance(delta.new, ProjectRecord) and delta.new.system:
            self._names.add(name)
        else:
            self._names.discard(name)

    def _compare(self) -> None:
        found = self.found()
        if found != self._last:
            self._last = found
            self._on_change()
