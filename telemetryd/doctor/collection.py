"""Whether collection is off or less is sent, and by what: here, and in the cluster."""

from collections.abc import Callable, Iterable
from typing import Final

import anyio
import msgspec

from telemetryd.daemon.optout import ANNOTATION, ENDED_ANNOTATION, MarkAnnotations, MarkedSecret
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.doctor.access import SecretTarget
from telemetryd.doctor.checking import CheckResult, passed, warn
from telemetryd.doctor.cluster import REQUEST_S
from telemetryd.doctor.consumer import read_setting
from telemetryd.errors import KubeError, NotFound
from telemetryd.export.payloads.payload import parse_rfc3339
from telemetryd.gather.project import OPT_OUT_SETTING
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests

COLLECTION: Final = "collection"

_SECRET: Final = msgspec.json.Decoder(MarkedSecret)


def judge_restrictions(restrictions: Restrictions) -> list[CheckResult]:
    """Whether collection is off or less is sent, and by what."""
    found = []
    for each in restrictions.statuses():
        by = "written in" if each.restriction.written else "remembered from"
        found.append(warn(COLLECTION, f"{each.what}: {by} {each.restriction.where}", each.end))
    return found or [passed(COLLECTION, "no restriction is written or remembered")]


async def recall_opt_outs(
    requests: Requests,
    restrictions: Restrictions,
    secrets: Iterable[SecretTarget],
    *,
    rancher: bool,
    now: Callable[[], float],
) -> list[CheckResult]:
    """Note what the Setting and the marks on the Secrets say, as the daemon does at its start.

    Returns:
        What can't be read.
    """
    unknown = []
    if rancher:
        try:
            restrictions.note_setting(await read_setting(requests, OPT_OUT_SETTING) or None)
        except NotFound:
            pass  # no Rancher, so no setting
        except KubeError as error:
            unknown.append(_not_known(f"the setting {OPT_OUT_SETTING}", error))

    async def look(secret: SecretTarget) -> None:
        path = f"/api/v1/namespaces/{secret.namespace}/secrets/{secret.name}"
        try:
            found = await objects.get(requests, path, _SECRET.decode, timeout_s=REQUEST_S)
        except KubeError as error:
            unknown.append(_not_known(f"{secret}, annotation {ANNOTATION}", error))
            return
        if found is not None and found.metadata.annotations is not None:
            _note_mark(restrictions, str(secret), found.metadata.annotations, now())

    async with anyio.create_task_group() as group:
        for secret in secrets:
            group.start_soon(look, secret)
    return unknown


def _not_known(what: str, error: KubeError) -> CheckResult:
    return warn(COLLECTION, f"{what} can't be read, so an opt-out there isn't known: {error}")


def _note_mark(
    restrictions: Restrictions, secret: str, mark: MarkAnnotations, now_s: float
) -> None:
    if mark.opted_out is not None:
        since = parse_rfc3339(mark.opted_out)
        if restrictions.opted_out_since is None and restrictions.ended_at(since) is None:
            where = f"{secret}, annotation {ANNOTATION}"
            restrictions.note_mark(where, now_s if since is None else since)
    elif (ended_at := parse_rfc3339(mark.opted_in or "")) is not None:
        restrictions.note_opt_in(f"{secret}, annotation {ENDED_ANNOTATION}", ended_at)
