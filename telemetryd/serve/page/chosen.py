"""Which SecretRequests every view shows: anyone who may create them decides how many there are."""

from collections.abc import Collection
from typing import Final

from telemetryd.model import RequestState, RequestStatus

MOST_REQUESTS: Final = 200

_TROUBLE_FIRST: Final = (
    RequestState.FAILING,
    RequestState.CONFLICT,
    RequestState.REJECTED,
    RequestState.WAITING,
    RequestState.UNDECIDED,
    RequestState.LEAVING,
    RequestState.SERVED,
)
_WITH_EXPORTER: Final = frozenset(
    {RequestState.FAILING, RequestState.CONFLICT, RequestState.SERVED}
)


def choose_requests(requests: Collection[RequestStatus]) -> list[RequestStatus]:
    """The SecretRequests to show, at most ``MOST_REQUESTS``: those in trouble first, then by name.

    Those with an exporter are always among them: their number is limited, that of others isn't.
    """

    def place(request: RequestStatus) -> tuple[int, str]:
        return _TROUBLE_FIRST.index(request.state), request.name

    shown = sorted(requests, key=lambda each: (each.state not in _WITH_EXPORTER, *place(each)))
    return sorted(shown[:MOST_REQUESTS], key=place)


def count_left_out(requests: Collection[RequestStatus]) -> int:
    """How many are not shown."""
    return max(0, len(requests) - MOST_REQUESTS)
