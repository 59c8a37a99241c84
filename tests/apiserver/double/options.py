"""The query parameters of reads: parsed once, and refused where the demo can't serve them.

Wording of the refusals: kube-apiserver 1.37.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.apiserver.double import status
from tests.apiserver.double.status import StatusCause

_INITIAL = "sendInitialEvents"
_GATE = "WatchList feature gate"
_NAME = "metadata.name="


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """meta/v1 ListOptions.

    Attributes:
        revision: ``resourceVersion`` as a number, None where it is unset; 0 means any.
        match: ``Exact``, ``NotOlderThan`` or empty.
        limit: Objects per page, 0 for all of them.
        timeout_s: After which the server ends the watch, None for its default.
        name: The one name that is selected, empty for all.
        send_initial_events: None where it is unset.
    """

    watch: bool
    revision: int | None
    match: str
    limit: int
    continue_token: str
    name: str
    allow_bookmarks: bool
    timeout_s: float | None
    send_initial_events: bool | None

    @property
    def exact(self) -> bool:
        """Whether just this revision is asked for; a limit means so where nothing else is said."""
        return bool(self.revision) and (
            self.match == "Exact" or bool(self.limit and not self.match)
        )


def parse_read_options(query: Mapping[str, str], *, watch_list: bool) -> ReadOptions:
    """Options of a list or a watch.

    Args:
        query: The URL's parameters.
        watch_list: Streaming lists are on; otherwise ``sendInitialEvents`` is refused as by a
            server with the WatchList feature gate off.

    Raises:
        BadRequest: One of them can't be parsed.
        InternalError: The resourceVersion of a watch is no number.
        InvalidOptions: It asks for a stream where there is none.
    """
    watch = is_true(query, "watch")
    try:
        revision = parse_revision(query)
    except status.InternalError as error:
        if watch:
            raise
        raise status.BadRequest(f"invalid resource version: {error}") from None
    options = ReadOptions(
        watch=watch,
        revision=revision,
        match=query.get("resourceVersionMatch", ""),
        limit=max(0, _integer(query, "limit")),
        continue_token=query.get("continue", ""),
        name=_selected_name(query),
        allow_bookmarks=is_true(query, "allowWatchBookmarks"),
        timeout_s=_integer(query, "timeoutSeconds") or None,
        send_initial_events=is_true(query, _INITIAL) if _INITIAL in query else None,
    )
    if options.send_initial_events is not None and not (options.watch and watch_list):
        why = "sendInitialEvents is forbidden for list"
        if options.watch:
            why = f"sendInitialEvents is forbidden for watch unless the {_GATE} is enabled"
        cause = StatusCause("FieldValueForbidden", f"Forbidden: {why}", _INITIAL)
        raise status.InvalidOptions("ListOptions", [cause])
    return options


def is_true(query: Mapping[str, str], name: str) -> bool:
    """A boolean as the API server reads it: present, and neither ``false`` nor ``0``."""
    return name in query and query[name].lower() not in {"false", "0"}


def parse_revision(query: Mapping[str, str]) -> int | None:
    """``resourceVersion``, None where it is unset.

    Raises:
        InternalError: It is no number; the real server answers so.
    """
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not text.isdecimal():
        why = f'strconv.ParseUint: parsing "{text}": invalid syntax'
        raise status.InternalError(f'resourceVersion: Invalid value: "{text}": {why}')
    return int(text)


def _integer(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "0")
    try:
        return int(text)
    except ValueError:
        why = f'strconv.ParseInt: parsing "{text}": invalid syntax'
        raise status.BadRequest(why) from None


def _selected_name(query: Mapping[str, str]) -> str:
    """The name that is selected, empty for all: telemetryd selects by nothing else.

    Raises:
        BadRequest: By anything else.
    """
    selector = query.get("fieldSelector", "")
    if query.get("labelSelector") or (selector and not selector.startswith(_NAME)):
        raise status.BadRequest("the demo selects by metadata.name alone")
    return selector.removeprefix(_NAME)
