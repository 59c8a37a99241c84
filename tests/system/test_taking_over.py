"""The guide docs/taking-over.md, step by step, with a Rancher of the shape of the real one.

Each step is the block after `<!-- step NAME -->`: a command of the guide is run, what it shows must
come, and a piece of configuration is put in force.
"""

import json
import re
import shlex
from contextlib import ExitStack

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.crds import FEATURES, SETTINGS, collection
from tests.apiserver.fixtures import feature, setting
from tests.docs.commands import missing_output
from tests.docs.markdown import ROOT
from tests.support import starter
from tests.system.rancherserver import RancherServer
from tests.system.requests import RequestDaemon, shown
from tests.system.scc import Scc

FEATURE = "rancher-scc-registration-extension"
STEP = re.compile(r"<!-- step (\w+) -->\n```(\w+)\n(.*?)\n```", re.DOTALL)
PAGE = (ROOT / "docs" / "taking-over.md").read_text()
STEPS = {name: (language, body) for name, language, body in STEP.findall(PAGE)}
PRIME = ("install", "off", "quiet", "takeover", "served", "permission", "kept")
BACK = ("on", "back", "ignore")
AGE = re.compile(r"Secret cattle-scc-system/\S+  data.payload was written by rancher (\d+) s ago")


class Prime:
    """A Rancher Prime, whose pods start again when its feature changes."""

    def __init__(self, admin: Admin, rancher: RancherServer, stack: ExitStack) -> None:
        self.admin = admin
        self._rancher = rancher
        self._running = stack.enter_context(ExitStack())

    def restart(self) -> None:
        """It ends, and serves again where its feature is on."""
        self._running.close()
        found = self.admin.get(f"{collection(FEATURES)}/{FEATURE}")
        if (found.get("spec") or {}).get("value") is not False:
            self._running.enter_context(self._rancher.running())


class Reader:
    """Does what the guide says."""

    def __init__(self, daemon: RequestDaemon, prime: Prime) -> None:
        self.daemon = daemon
        self.prime = prime

    def do(self, step: str) -> None:
        """One step, and wait for what it shows."""
        language, body = STEPS[step]
        if language == "toml":
            table, settings = body.split("\n", 1)
            assert table == "[secret_requests]"
            self.daemon.reload(settings)
            return
        command, *output = body.splitlines()
        prompt, *words = shlex.split(command)
        assert prompt == "$"
        if words[:2] == ["telemetryd", "doctor"]:
            self.daemon.wait_for(step, lambda: not self.missing(tuple(output)), 60)
            return
        kubectl, patch, resource, name, *options = words
        assert (kubectl, patch) == ("kubectl", "patch")
        assert (resource, options[:3]) == (
            "features.management.cattle.io",
            ["--type", "merge", "-p"],
        )
        self.prime.admin.patch(f"{collection(FEATURES)}/{name}", json.loads(options[3]))
        self.prime.restart()

    def missing(self, output: tuple[str, ...]) -> list[str]:
        """Of the lines shown those that doctor doesn't say."""
        return missing_output(output, self.doctor())

    def doctor(self) -> str:
        """What `telemetryd doctor` says of the daemon's configuration."""
        report: str = starter.run("doctor", "--config", str(self.daemon.config_file)).stdout
        return report

    def age_s(self) -> int:
        """How old the payload is, by doctor."""
        found = AGE.search(self.doctor())
        assert found
        return int(found[1])


def install(scc: Scc, *, on: bool) -> None:
    """What makes a Rancher a Prime one."""
    scc.put(collection(SETTINGS), setting("server-version-type", "prime"))
    value = None if on else False
    scc.put(collection(FEATURES), feature(FEATURE, value=value, default=True))


def test_every_step_of_the_guide_is_tried_here() -> None:
    assert set(STEPS) == {*PRIME, *BACK, "apart"}


@pytest.mark.long
def test_guide_takes_over_from_rancher_prime_and_gives_back(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    install(scc, on=True)
    rancher = RancherServer(admin, every_s=2.0)
    with ExitStack() as stack:
        reader = Reader(serving, Prime(admin, rancher, stack))
        reader.prime.restart()
        serving.reload("enabled = false")  # it comes to a Rancher that serves already
        scc.ask()
        serving.wait_for("Rancher's Secret", lambda: rancher.writes > 1, 60)
        serving.reload()
        for step in PRIME[: PRIME.index("quiet") + 1]:
            reader.do(step)
        younger = reader.age_s()
        serving.wait_for("silence", lambda: reader.age_s() > younger + 4, 60)
        for step in PRIME[PRIME.index("takeover") :]:
            reader.do(step)
        document = scc.payload()
        assert document is not None
        assert document["version"] == "2.15.0"
        assert shown(serving)["state"] == "served"
        writes = rancher.writes
        for step in BACK[:2]:
            reader.do(step)
        serving.wait_for("its pace", lambda: rancher.writes > writes + 3, 60)
        assert reader.age_s() <= 30, "Rancher goes on"
        assert shown(serving)["state"] == "conflict"
        reader.do(BACK[2])
        serving.wait_for("no requests", lambda: not serving.status()["secret_requests"], 60)
        assert "rancher-scc-metrics" not in reader.doctor()
        writes = rancher.writes
        serving.wait_for("its pace", lambda: rancher.writes > writes + 2, 60)


@pytest.mark.long
def test_guide_serves_an_operator_that_is_deployed_apart(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    install(scc, on=False)
    with ExitStack() as stack:
        reader = Reader(serving, Prime(admin, RancherServer(admin, every_s=2.0), stack))
        reader.prime.restart()
        scc.ask()
        reader.do("apart")
        assert shown(serving)["state"] == "served"
