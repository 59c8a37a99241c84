"""The guarded work: all that one replica alone may do, as one group of tasks.

A hold cuts it off: after an opt-out, a move to another source, or the loss of the
Lease. A shutdown drains it. In both cases it has ended when the call returns, so that the Lease is
released, or sought again, only after that.
"""

import anyio

from telemetryd.daemon.requests import SecretRequests
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.model import ExporterState


class GuardedWork:
    """The exporters and the SecretRequest controller; a ``Gate`` over both."""

    def __init__(self, exporters: ExporterManager, requests: SecretRequests) -> None:
        """Nothing runs before ``run``."""
        self._exporters = exporters
        self._requests = requests

    async def run(self) -> None:
        """Work until cancelled, then drain: both at once, within the drain timeout and 2 s."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._exporters.run, name="exporters")
            group.start_soon(self._requests.serve, name="secret requests")

    async def hold(self, state: ExporterState, detail: str) -> None:
        """Cut off all work and keep it from running until the same state is released.

        Args:
            state: As of the exporter manager.
            detail: Why, in a few words.
        """
        self._requests.cut(state)
        await self._exporters.hold(state, detail)
        await self._requests.ended()

    def release(self, state: ExporterState) -> None:
        """End a hold; nothing where the state isn't held."""
        self._exporters.release(state)
        self._requests.release(state)
