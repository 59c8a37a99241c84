"""The local cluster's System project, as the informer of all projects knows it.

What it decides is ``decision``'s.
"""

from telemetryd.control.secretrequest.decision import SystemProjects
from telemetryd.kube.resource import Reader
from telemetryd.model import ProjectRecord

_LOCAL = "local/"
"""Begins the keys of the local cluster's projects; each other cluster has a System project too."""


def system_projects(projects: Reader[ProjectRecord]) -> SystemProjects:
    """The local cluster's System project, as far as it is known."""
    if not projects.synced:
        status = projects.status()
        return SystemProjects(
            (), f"{status.resource} not synced: {status.last_error or 'first list'}"
        )
    names = []
    for key in projects.keys():  # noqa: SIM118 - no mapping
        record = projects.get(key)
        if key.startswith(_LOCAL) and isinstance(record, ProjectRecord) and record.system:
            names.append(key.removeprefix(_LOCAL))
    return SystemProjects(tuple(names))
