"""telemetryd as it is installed: a configuration, a state folder, and a daemon on both."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support import starter
from tests.support.daemon import TOP_LEVEL, Daemon
from tests.support.embedded import FleetServer

NOTHING: Mapping[str, str] = MappingProxyType({})


class Installed:
    """A configuration in a folder beside the state, and commands that use both."""

    def __init__(
        self, state: Path, fleet: FleetServer, config: str, environ: Mapping[str, str] = NOTHING
    ) -> None:
        self.state = state
        self.file = state.parent / f"{state.name}.toml"
        tables = f'[kubernetes]\nkubeconfig = "{fleet.kubeconfig}"\n'
        self.file.write_text(TOP_LEVEL + tables + config)
        kept = {name: value for name, value in os.environ.items() if "TELEMETRYD" not in name}
        self.environ = {**kept, "STATE_DIRECTORY": str(state), "HOME": "/nonexistent", **environ}

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """One command to its end."""
        return starter.run(*words, "--config", str(self.file), env=self.environ)


class Running:
    """A daemon, and what an operator asks of it."""

    def __init__(self, daemon: Daemon, installed: Installed) -> None:
        self.daemon = daemon
        self.installed = installed

    def ctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.installed.run("ctl", *words)

    def status(self) -> dict[str, Any]:
        return self.daemon.status()

    def exporter(self, name: str) -> dict[str, Any]:
        return self.daemon.exporter(name)

    def log(self) -> str:
        return self.daemon.log()

    def whole_log(self) -> str:
        return self.daemon.whole_log()

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log().splitlines()]

    def until(self, what: str, probe: Callable[[], Any]) -> Any:
        return self.daemon.wait_for(what, probe, 60)


@contextmanager
def installed(
    state: Path, fleet: FleetServer, config: str, environ: Mapping[str, str] = NOTHING
) -> Iterator[Running]:
    """A daemon on a state folder; it ends well with the block."""
    state.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as short:
        paths = {"STATE_DIRECTORY": str(state), "RUNTIME_DIRECTORY": short}
        folder = state.parent / f"{state.name}-daemon"
        folder.mkdir(exist_ok=True)
        daemon = Daemon(folder, fleet.kubeconfig, config, environ={**environ, **paths})
        commands = Installed(state, fleet, config, {**environ, **paths})
        commands.file = daemon.config_file
        try:
            daemon.wait_for("it listens", lambda: daemon.get("/livez")[0], 60)
            yield Running(daemon, commands)
        finally:
            status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]
