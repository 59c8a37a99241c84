"""The query parameters of reads: parsed once, and refused where they don't go together.

Wording of the refusals: kube-apiserver 1.37.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from telemetryd.demo import status
from telemetryd.demo.selectors import Selector, parse_selector
from telemetryd.demo.status import Cause

_MATCH = "resourceVersionMatch"
_INITIAL = "sendInitialEvents"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """meta/v1 ListOptions.

    Attributes:
        revision: ``resourceVersion`` as a number, None where it is unset; 0 means any.
        match: ``Exact``, ``NotOlderThan`` or empty.
        limit: Objects per page, 0 for all of them.
        timeout_s: After which the server ends the watch, None for its default.
        send_initial_events: None where it is unset.
    """

    watch: bool
    revision: int | None
    match: str
    limit: int
    continue_token: str
    selector: Selector
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
        InvalidOptions: They don't go together.
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
        match=query.get(_MATCH, ""),
        limit=max(0, _integer(query, "limit")),
        continue_token=query.get("continue", ""),
        selector=parse_selector(query.get("labelSelector", ""), query.get("fieldSelector", "")),
        allow_bookmarks=is_true(query, "allowWatchBookmarks"),
        timeout_s=_integer(query, "timeoutSeconds") or None,
        send_initial_events=is_true(query, _INITIAL) if _INITIAL in query else None,
    )
    causes = (
        _watch_causes(options, watch_list=watch_list) if options.watch else _list_causes(options)
    )
    if causes:
        raise status.InvalidOptions("ListOptions", causes)
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


def _forbidden(field: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {why}", field)


def _list_causes(options: ReadOptions) -> list[Cause]:
    causes = []
    if options.match:
        if options.revision is None:
            why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            causes.append(_forbidden(_MATCH, why))
        if options.continue_token:
            why = "resourceVersionMatch is forbidden when continue is provided"
            causes.append(_forbidden(_MATCH, why))
        if options.match not in {"Exact", "NotOlderThan"}:
            causes.append(
                Cause(
                    "FieldValueNotSupported",
                    f'Unsupported value: "{options.match}": supported values: "Exact",'
                    ' "NotOlderThan", ""',
                    _MATCH,
                )
            )
        if options.match == "Exact" and options.revision == 0:
            why = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            causes.append(_forbidden(_MATCH, why))
    if options.send_initial_events is not None:
        causes.append(_forbidden(_INITIAL, "sendInitialEvents is forbidden for list"))
    return causes


def _watch_causes(options: ReadOptions, *, watch_list: bool) -> list[Cause]:
    if options.send_initial_events is None:
        if not options.match:
            return []
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        return [_forbidden(_MATCH, why)]
    causes = []
    if options.match != "NotOlderThan":
        why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        causes.append(_forbidden(_MATCH, why))
    if not watch_list:
        why = (
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        )
        causes.append(_forbidden(_INITIAL, why))
    return causes
