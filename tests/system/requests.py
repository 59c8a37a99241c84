"""Daemons that serve SecretRequests: started, reloaded, and asked how a request fares."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.daemon import TOP_LEVEL, Daemon
from tests.system.scc import REQUEST, SECRET, SERVED, Scc

NO_EXPORTERS = "exporters = []\n"


class RequestDaemon(Daemon):
    """A daemon whose configuration is ``[secret_requests]`` and the exporters given.

    Args:
        folder: For its files.
        kubeconfig: What it connects with.
        settings: Further keys of ``[secret_requests]``.
        exporters: Tables of exporters; none where empty.
    """

    def __init__(
        self, folder: Path, kubeconfig: Path, settings: str = "", exporters: str = ""
    ) -> None:
        self._now = (settings, exporters)
        super().__init__(folder, kubeconfig, *_config(settings, exporters))

    def reset(self) -> None:
        """Go back to the configuration that most tests want, where another is in force."""
        if self._now != ("", ""):
            self.reload()

    def reload(self, settings: str = "", exporters: str = "") -> None:
        """Put another configuration in force, and wait until it is."""
        before = self.status()["config"]["last_reload"]
        self._now = (settings, exporters)
        self.configure(*_config(settings, exporters))
        self.signal(signal.SIGHUP)
        self.wait_for("reload", lambda: self.status()["config"]["last_reload"] != before, 40)
        assert self.status()["config"]["last_reload"]["ok"]


def run_requests_daemon(folder: Path, kubeconfig: Path) -> Iterator[RequestDaemon]:
    """A running one; it must end well, and must not have failed in a way it didn't expect."""
    daemon = RequestDaemon(folder, kubeconfig)
    try:
        daemon.wait_for("ready", daemon.ready, 60)
        yield daemon
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]
    assert "Traceback" not in daemon.log(), daemon.log()[-4000:]


def _config(settings: str, exporters: str) -> tuple[str, str]:
    keys = {"interval": '"1s"', "quiet_period": '"3s"'}
    for line in settings.splitlines():
        key, _, value = line.partition(" = ")
        keys[key] = value
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f"[secret_requests]\n{lines}{exporters}", TOP_LEVEL + ("" if exporters else NO_EXPORTERS)


def exporters(daemon: Daemon) -> list[str]:
    """Names of all exporters."""
    return [each["name"] for each in daemon.status()["exporters"]]


def shown(daemon: Daemon, name: str = REQUEST) -> dict[str, Any]:
    """What the status shows of a request, empty for nothing."""
    listed: dict[str, dict[str, Any]] = {
        each["name"]: each for each in daemon.status()["secret_requests"]
    }
    return listed.get(name, {})


def wait_served(daemon: Daemon, scc: Scc, name: str = REQUEST, secret: str = SECRET) -> None:
    """Until the Secret is there and the request's status says so."""
    daemon.wait_for("the Secret", lambda: scc.payload(secret), 40)
    daemon.wait_for("its conditions", lambda: scc.conditions(name) == SERVED, 40)
    daemon.wait_for("the time of the write", lambda: "lastSyncTS" in scc.status(name), 40)
