"""All that a daemon does with the rights of `deploy/`: each act with what comes of it."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetryd.doctor.access import Access
from tests.apiserver.admin import Admin, AdminError, Objects
from tests.deploy.installed import Installed
from tests.deploy.kustomize import NAMESPACE
from tests.support.daemon import Daemon
from tests.system.rancher import SECRET, Rancher, facts, recount
from tests.system.scc import SERVED, Scc

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/telemetryd"
WITHIN_S = 60.0
CONFIG = """
[leader_election]
enabled = true
lease_duration = "4s"
renew_deadline = "3s"
retry_period = "500ms"

[secret_requests]
interval = "1s"
cleanup = "delete"

[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "100ms"
"""
# A streamed list is authorised as a watch: in pages each server asks for both verbs.
IN_PAGES = 'watch_list = "off"'


@contextmanager
def living(installed: Installed, folder: Path, admin: Admin) -> Iterator["Life"]:
    """A daemon with that account's token and every feature on, until the block is left."""
    daemon = Daemon(folder, installed.kubeconfig, CONFIG, kubernetes=IN_PAGES)
    life = Life(daemon, Rancher(admin), Scc(admin))
    try:
        daemon.wait_for("it answers", lambda: daemon.get("/livez")[0], 30)
        yield life
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


@dataclass(frozen=True, slots=True)
class Life:
    """A running daemon and the cluster around it.

    Attributes:
        daemon: Leads, exports, and serves SecretRequests.
        rancher: The fleet.
        scc: scc-operator's request.
    """

    daemon: Daemon
    rancher: Rancher
    scc: Scc

    def wait(self, what: str, probe: Callable[[], object]) -> None:
        """Until the probe is true."""
        self.daemon.wait_for(what, probe, WITHIN_S)

    def acts(self) -> "Mapping[str, Act]":
        """By what each shows."""
        return {
            "exports": Act(
                lambda: self.wait("exports", self.exported),
                lambda: forget(self.rancher.admin, SECRET),
                self.exported,
            ),
            "leads": Act(
                lambda: self.wait("leads", self.leads),
                lambda: forget(self.rancher.admin, LEASE),
                self.leads,
            ),
            "serves requests": Act(self.clear_request, self.scc.ask, self.served),
            "withdraws": Act(self.ensure_served, self.withdraw, self.withdrawn),
        }

    def exported(self) -> bool:
        """The Secret holds the fleet as it is."""
        payload = self.rancher.payload()
        return payload is not None and facts(payload) == recount(self.rancher.admin)

    def leads(self) -> bool:
        """The Lease is held and renewed."""
        leader = self.daemon.status()["leader"]
        return bool(leader["leading"]) and not leader["last_error"]

    def synced(self) -> bool:
        """Every informer there must be is well."""
        found = self.daemon.status()["informers"]
        well = all(each["synced"] and not each["last_error"] for each in found)
        return well and len(found) >= len(INFORMERS)

    def served(self) -> bool:
        """The request has its Secret, and its status says so."""
        return self.scc.conditions() == SERVED and self.scc.payload() is not None

    def withdrawn(self) -> bool:
        """The request's Secret is gone."""
        return self.scc.secret() is None

    def ensure_served(self) -> None:
        """A request that has been served."""
        if self.scc.request() is None:
            self.scc.ask()
        self.wait("served", self.served)

    def withdraw(self) -> None:
        """What the operator does when it needs its request no more."""
        self.scc.delete()
        self.scc.finalize()

    def clear_request(self) -> None:
        """No request, nor a Secret of an earlier one."""
        if self.scc.request() is not None:
            self.ensure_served()
            self.withdraw()
        self.wait("its Secret is gone", self.withdrawn)


INFORMERS = (
    "clusters",
    "nodes",
    "settings",
    "features",
    "projects",
    "secretrequests",
    "kube-system",
)


@dataclass(frozen=True, slots=True)
class Act:
    """Something that needs rights.

    Attributes:
        prepare: Brings about that it can begin.
        begin: Makes it due.
        done: Whether it has come about.
    """

    prepare: Callable[[], object]
    begin: Callable[[], object]
    done: Callable[[], bool]


def tells(daemon: Daemon, access: Access, since: int) -> bool:
    """Whether the status, or a warning from that length of the log on, names the denied verb."""
    denials = [f'cannot {access.verb} resource "{access.resources}"']
    if access.verb == "create":
        # Kubernetes 1.31 gives no reason where an apply would have to create.
        denials.append(f"not allowed to create or patch Secret {access.namespace}/{access.name}")
    shown = [daemon.get("/status.json")[1].replace('\\"', '"'), *_warnings(daemon, since)]
    return any(denial in text for denial in denials for text in shown)


def misses(daemon: Daemon, access: Access) -> bool:
    """Whether the informer of that resource is kept from its work by that denial."""
    name = f"{access.resource}.{access.group}" if access.group else access.resource
    denial = f'cannot {access.verb} resource "{access.resources}"'
    return any(
        each["resource"] == name and denial in each["last_error"]
        for each in daemon.status()["informers"]
    )


def _warnings(daemon: Daemon, since: int) -> Iterator[str]:
    for line in daemon.log()[since:].splitlines():
        with suppress(ValueError):
            entry: dict[str, Any] = json.loads(line)
            if entry["level"] in {"warning", "error"}:
                yield str(entry).replace('\\"', '"')


def forget(admin: Admin, path: str) -> None:
    """Delete an object where it exists."""
    with suppress(AdminError):
        admin.delete(path)


def used(events: Objects) -> tuple[set[Access], list[str]]:
    """What an account was allowed and what it was denied, by its events in the audit log.

    A patch that creates is authorised as both.
    """
    allowed: set[Access] = set()
    denied: list[str] = []
    for event in events:
        ref = event.get("objectRef")
        status = event.get("responseStatus", {}).get("code")
        if status is None:
            continue
        if status == 403:
            denied.append(f"{event['verb']} {event['requestURI']}")
        if ref is None or ref["resource"].startswith("self"):
            continue  # discovery, and doctor's questions about itself: open to all
        created = ("create",) if event["verb"] == "patch" and status == 201 else ()
        for verb in (event["verb"], *created):
            allowed.add(
                Access(
                    ref.get("apiGroup", ""),
                    ref["resource"],
                    ref.get("subresource", ""),
                    verb,
                    ref.get("namespace", ""),
                    ref.get("name", ""),
                )
            )
    return allowed, denied


def check_use(rights: Iterable[Access], trail: Callable[[], Objects]) -> None:
    """Each of the rights is used, no other is asked for, and nothing is denied.

    Args:
        rights: Those of the account.
        trail: Its events in the audit log; a watch can begin a moment after all else is done.
    """
    rights, deadline = set(rights), time.monotonic() + WITHIN_S
    while True:
        requests, denied = used(trail())
        assert not denied
        unused = {str(right) for right in rights if not any(covers(right, use) for use in requests)}
        if not unused:
            break
        assert time.monotonic() < deadline, unused
        time.sleep(0.2)
    assert all(any(covers(right, use) for right in rights) for use in requests)


def covers(right: Access, use: Access) -> bool:
    """Whether the right is the one that the request needed."""
    same = ("group", "resource", "subresource", "verb")
    return (
        all(getattr(right, key) == getattr(use, key) for key in same)
        and right.namespace in {"", use.namespace}
        and right.name in {"", use.name}
    )
