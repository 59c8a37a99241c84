"""The history that a running daemon keeps, read over its control socket, a few slots at a time.

So it can be read where the daemon is another user's, keeps its file locked on a network's file
system, or keeps the history elsewhere.
"""

import os
from collections.abc import Iterator, Sequence

import msgspec

from telemetryd.errors import CommandRefused, HistoryError, NoDaemon
from telemetryd.history.slots import Slot
from telemetryd.history.transfer import slot_of
from telemetryd.serve.control import client
from telemetryd.serve.control.protocol import Document, Request

TIMEOUT_S = 60.0
"""For one answer: the daemon gives its disk 20 s."""
_LATEST = 2.0**62


class DaemonHistory:
    """What ``report`` and ``history export`` read, as of a store.

    Attributes:
        instance: The host that the daemon runs on.
    """

    def __init__(self, paths: Sequence[str], state_dir: str | None) -> None:
        """Ask the daemon that listens on one of the paths.

        Raises:
            NoDaemon: None listens that keeps its state in this folder.
            CommandRefused: This user may not ask it.
            HistoryError: It has no history, or doesn't know the question.
        """
        self._paths = paths
        about = self._ask(Request("history"))
        theirs = about.get("state_dir")
        if not _same(theirs, state_dir):
            raise NoDaemon(f"the daemon that runs keeps its state in {theirs}")
        self.instance = str(about.get("instance") or "")
        self._installations = [str(each) for each in about.get("installations") or ()]

    def installations(self) -> list[str]:
        """The install UUIDs that there are days of, that with the latest one last."""
        return self._installations

    def read(
        self, installation: str, size_s: int, begin: float, end: float, *, series: str = ""
    ) -> list[Slot]:
        """The slots of a size that begin in [begin, end), in the order of time.

        With ``series`` they have the cells of that one alone.

        Raises:
            HistoryError: The daemon can't read them, or is gone.
        """
        asked = Request(
            "slots",
            installation,
            size=size_s,  # type: ignore[arg-type]
            begin=begin,
            end=min(end, _LATEST),
            series=series,
        )
        return list(self._slots(asked))

    def prune(self, _now: float, *, keep_s: float, keep_daily_s: float) -> int:
        """Remove what is older by the daemon's clock; returns the number of slots.

        Raises:
            HistoryError: The daemon can't, or is gone.
        """
        request = Request("prune", keep=keep_s, keep_daily=keep_daily_s)
        return int(self._ask_again(request).get("removed") or 0)

    def clear(self) -> None:
        """Remove everything.

        Raises:
            HistoryError: The daemon can't, or is gone.
        """
        self._ask_again(Request("prune", all=True))

    def close(self) -> None:
        """Nothing is open."""

    def _slots(self, asked: Request) -> Iterator[Slot]:
        at: float | None = asked.begin
        while at is not None:
            answer = self._ask_again(msgspec.structs.replace(asked, begin=at))
            try:
                yield from (slot_of(each) for each in answer.get("slots") or ())
            except ValueError as error:
                raise HistoryError(f"the daemon's answer can't be read: {error}") from error
            after = answer.get("next")
            at = float(after) if isinstance(after, int | float) and after > at else None

    def _ask_again(self, request: Request) -> Document:
        """What a daemon answers that answered before.

        Raises:
            HistoryError: It refuses, or is gone.
        """
        try:
            return self._ask(request)
        except (NoDaemon, CommandRefused) as error:
            raise HistoryError(f"the daemon is gone: {error}") from error

    def _ask(self, request: Request) -> Document:
        answer = client.ask(self._paths, request, timeout_s=TIMEOUT_S)
        if answer.error:
            raise HistoryError(answer.error)
        return answer.result


def _same(one: object, other: str | None) -> bool:
    if not isinstance(one, str) or other is None:
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)
