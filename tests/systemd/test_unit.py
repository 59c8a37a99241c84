"""The unit as it is written: hardened, valid, with the rules by which it ends and begins again.

What it does under a real systemd is shown by `tests/systemd/drill`, which `make drill` runs.
"""

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from telemetryd.config import load_config

UNIT = Path(__file__).parents[2] / "systemd" / "telemetryd.service"
EXPOSURE_AT_MOST = 15
"""Of `systemd-analyze security`, times ten. A service without any directive has 96."""


def directives() -> dict[str, list[str]]:
    """The values of each directive, in order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


@pytest.fixture
def analyze() -> str:
    """The program, which CI has."""
    found = shutil.which("systemd-analyze")
    if found is None:
        assert not os.environ.get("CI"), ".ci/run installs systemd"
        pytest.skip("no systemd-analyze here")
    return found


def test_exposure_is_low(analyze: str) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={EXPOSURE_AT_MOST}", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    loose = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=1", str(UNIT)],
        capture_output=True,
        check=False,
    )
    assert loose.returncode != 0, "the threshold is looked at"


def verified(analyze: str, text: str, folder: Path) -> str:
    """What `systemd-analyze verify` prints of a unit, which runs a program that is there."""
    unit = folder / "telemetryd.service"
    unit.write_text(text.replace("/usr/bin/telemetryd", sys.executable))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    # Of this unit: the machine's own may have whatever faults.
    lines = (done.stdout + done.stderr).splitlines()
    return "\n".join(line for line in lines if "telemetryd" in line)


def test_systemd_understands_every_line(analyze: str, tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert verified(analyze, text, tmp_path) == ""
    # It exits 0 all the same: what it prints is what counts.
    wrong = verified(analyze, text.replace("Type=notify", "Type=sometimes"), tmp_path)
    assert "sometimes" in wrong


def test_it_always_comes_back_but_from_a_configuration_that_cannot_work() -> None:
    unit = directives()
    assert unit["Restart"] == ["always"], (
        "a clean exit by a signal nobody meant is no reason to stay"
    )
    assert unit["RestartSec"] == ["5s"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["RestartPreventExitStatus"] == ["64 78"]


def test_systemd_waits_longer_than_the_drain(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('log_level = "info"')
    (timeout,) = directives()["TimeoutStopSec"]
    assert float(timeout) > load_config(config, {}).drain_timeout_s


def test_daemon_talks_to_systemd_and_only_the_daemon() -> None:
    unit = directives()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["60"]
    assert unit["ExecReload"] == ["/usr/bin/telemetryd ctl reload"], "it waits for the outcome"


def test_sandbox_is_as_tight_as_its_work_allows() -> None:
    unit = directives()
    closed = {
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "DevicePolicy": "closed",
        "LimitCORE": "0",
        "ProtectProc": "invisible",
        "ProtectSystem": "strict",
        "RuntimeDirectoryMode": "0700",
        "StateDirectoryMode": "0700",
        "SystemCallArchitectures": "native",
        "SystemCallErrorNumber": "EPERM",
        "UMask": "0077",
    }
    switches = (
        *("DynamicUser", "LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges"),
        *("PrivateDevices", "PrivateMounts", "PrivateTmp", "PrivateUsers", "RemoveIPC"),
        *("ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname"),
        *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables"),
        *("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
    )
    assert {name: unit[name] for name in closed} == {name: [to] for name, to in closed.items()}
    assert {name: unit[name] for name in switches} == {name: ["yes"] for name in switches}
    # TCP to the API server and to receivers; Unix sockets for `ctl` and systemd. No netlink.
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert not {"ReadWritePaths", "BindPaths", "SupplementaryGroups"} & set(unit)


def test_process_files_stay_visible_for_the_metrics_of_the_process() -> None:
    assert "ProcSubset" not in directives(), "without /proc/stat process_* are empty"
