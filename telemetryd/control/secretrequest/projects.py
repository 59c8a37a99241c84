"""The local cluster's System project, kept up to date from the informer of all projects.

What it decides is ``decision``'s.
"""

import logging
import re
from collections.abc import Callable

from telemetryd.control.secretrequest.crowdlog import CrowdLog
from telemetryd.control.secretrequest.decision import SystemProjects
from telemetryd.informer.store import Reader
from telemetryd.model import Delta, ProjectRecord

_LOCAL = "local/"
"""Begins the keys of the local cluster's projects; each other cluster has a System project too."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_NEVER = "~"
"""Sorts after every time: an object without one can't be the oldest."""


class SystemProjectWatch:
    """Follows the changes of projects: what an event costs doesn't depend on how many there are."""

    def __init__(
        self, projects: Reader[ProjectRecord], on_change: Callable[[], None], lines: CrowdLog
    ) -> None:
        """Look at all projects once, and follow them until ``close``.

        Args:
            projects: Of all clusters.
            on_change: Called when ``found()`` has changed.
            lines: For projects that bear the mark besides.
        """
        self._projects = projects
        self._on_change = on_change
        self._lines = lines
        self._created: dict[str, str] = {}
        self._last = SystemProjects()
        self._ends = (projects.subscribe(self._apply), projects.on_change(self._compare))
        self._compare(quiet=True)

    def found(self) -> SystemProjects:
        """The local cluster's System project, as far as it is known."""
        if not self._projects.synced:
            status = self._projects.status()
            why = status.last_error or "first list"
            return SystemProjects(why_unknown=f"{status.resource} not synced: {why}")
        if not self._created:
            return SystemProjects()
        oldest = min(self._created, key=lambda name: (self._created[name], name))
        return SystemProjects(oldest, self._created.keys() - {oldest})

    def close(self) -> None:
        """Follow the projects no longer."""
        for end in self._ends:
            end()

    def _apply(self, delta: Delta[ProjectRecord]) -> None:
        if not delta.key.startswith(_LOCAL):
            return
        name = delta.key.removeprefix(_LOCAL)
        if isinstance(delta.new, ProjectRecord) and delta.new.system:
            created_at = delta.new.created_at
            self._created[name] = created_at if _TIME.fullmatch(created_at) else _NEVER
        else:
            self._created.pop(name, None)

    def _compare(self, *, quiet: bool = False) -> None:
        found = self.found()
        if found == self._last:
            return
        if found.ignored and found.ignored != self._last.ignored:
            self._lines.log(
                logging.WARNING,
                "several projects are marked as the System project used=%s ignored=%d",
                found.name,
                len(found.ignored),
            )
        self._last = found
        if not quiet:
            self._on_change()
