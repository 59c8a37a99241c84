"""Which worker of pytest-xdist takes which test file."""

from collections.abc import Sequence
from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

KEEPERS: Final = 2
"""Workers that take the files with a kube-apiserver; each of them starts its own."""


class ServerScheduling(LoadFileScheduling):
    """Hands out whole files, and those with a kube-apiserver to the same few workers.

    A server takes seconds of CPU time to start, and a twentieth of a core while it idles.

    Args:
        config: Of the session.
        served: What the paths of files with a server begin with.
        log: Of xdist.
    """

    def __init__(
        self, config: pytest.Config, served: Sequence[str], log: Producer | None = None
    ) -> None:
        super().__init__(config, log)
        self._served = tuple(served)

    def _next_for(self, node: WorkerController) -> str | None:
        """The file that this worker takes next; None where it has done its part."""
        served: list[str] = [file for file in self.workqueue if file.startswith(self._served)]
        others = (file for file in self.workqueue if not file.startswith(self._served))
        if node in self.nodes[:KEEPERS] and served:
            return served[0]
        # Near the end, a server that is started for one file only delays it.
        return next(others, served[0] if len(served) > len(self.nodes) else None)

    def _assign_work_unit(self, node: WorkerController) -> None:
        file = self._next_for(node)
        if file is not None:
            self.workqueue.move_to_end(file, last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if self.workqueue and self._next_for(node) is None:
            node.shutdown()
        else:
            super()._reschedule(node)
