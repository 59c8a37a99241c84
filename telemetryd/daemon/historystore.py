"""The store of the history for the event loop: in a thread of its own, under a time limit."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import anyio

from telemetryd.config import Config
from telemetryd.errors import HistoryError
from telemetryd.export.threads import StillHangingError, WorkerThread, shared_threads
from telemetryd.history.store import FILE_NAME, HistoryStore, is_shared, open_history

T = TypeVar("T")

STORE_TIMEOUT_S: Final = 20.0
NO_FOLDER: Final = "there is no usable state_dir: configure one"
_PAUSE_S: Final = 0.05
_SLOW: Final = {
    False: "the disk takes too long: check the disk or the file server",
    True: "PostgreSQL takes too long: check the server and the network",
}


class StoreThread:
    """Opens the store when it is first used, and again after it failed.

    Attributes:
        config: In force; its state folder is that of the start.
    """

    def __init__(self, config: Config, *, now: Callable[[], float]) -> None:
        """Nothing is opened yet."""
        self.config = config
        self._now = now
        self._store: HistoryStore | None = None
        self._stale = False
        self._thread = WorkerThread(shared_threads())

    def follow(self, config: Config) -> None:
        """Put a configuration in force."""
        self._stale = self._stale or config.history != self.config.history
        self.config = replace(config, state_dir=self.config.state_dir)

    @property
    def shared(self) -> bool:
        """Whether other replicas write to it too."""
        return is_shared(self.config)

    @property
    def is_nowhere(self) -> bool:
        """Whether there is no place for it."""
        return self.config.state_dir is None and not self.shared

    async def use(self, call: Callable[[HistoryStore], T], *, make: bool = True) -> T:
        """What a call of the store returns, once one that was cut off has ended.

        Args:
            call: Blocks; it goes on in its thread where it takes too long.
            make: Make the store where there is none.

        Raises:
            HistoryError: There is none, it fails, or it takes too long.
        """
        if self.is_nowhere:
            raise HistoryError(f"no history: {NO_FOLDER}")
        try:
            with anyio.fail_after(STORE_TIMEOUT_S):
                return await self._run(lambda: self._call(call, make=make))
        except TimeoutError:
            raise HistoryError(_SLOW[self.shared]) from None

    async def close(self) -> None:
        """Close it, once a call that was cut off has ended."""
        await self._run(self._close)

    async def _run(self, call: Callable[[], T]) -> T:
        while True:
            with suppress(StillHangingError):
                return await self._thread.run(call)
            await anyio.sleep(_PAUSE_S)

    # -- called in the thread

    def _call(self, call: Callable[[HistoryStore], T], *, make: bool) -> T:
        try:
            return call(self._opened(make=make))
        except HistoryError:
            # A disk that was full or away may have left the connection useless.
            self._stale = True
            raise

    def _opened(self, *, make: bool) -> HistoryStore:
        if self._stale:
            self._close()
        self._stale = False
        if self._store is None:
            folder = self.config.state_dir
            if not (make or self.shared or Path(folder or "", FILE_NAME).exists()):
                raise HistoryError(f"no history in {folder} yet")
            self._store = open_history(self.config, now=self._now)
        return self._store

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
