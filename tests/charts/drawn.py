"""Values drawn by lot: the variants of the chart in any combination."""

import random
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.processes import free_ports

SEED: Final = 20261130
COUNT: Final = 30
TLS_SECRET: Final = "telemetryd-tls"
CREDENTIALS: Final = "telemetry-receiver"
NOWHERE: Final = "http://127.0.0.1:9"


@dataclass(slots=True)
class Lot:
    """Draws, and remembers what was drawn."""

    rng: random.Random
    drawn: list[str] = field(default_factory=list)

    def chance(self, name: str, share: float = 0.5) -> bool:
        """Whether something is taken."""
        taken = self.rng.random() < share
        if taken:
            self.drawn.append(name)
        return taken

    def choose(self, name: str, *options: Any) -> Any:
        """One of the options."""
        chosen = self.rng.choice(options)
        self.drawn.append(f"{name}={chosen}")
        return chosen


@dataclass(frozen=True, slots=True)
class Drawn:
    """One combination.

    Attributes:
        values: Of the chart.
        scc: The rights for scc-operator are among them.
        name: What it is made of.
    """

    values: dict[str, Any]
    scc: bool
    name: str


def draw(number: int, port: int) -> Drawn:
    """The combination of that number, which listens on the port; each time the same."""
    lot = Lot(random.Random(f"{SEED}-{number}"))
    values: dict[str, Any] = {
        "config": {
            "kubernetes": {"source": lot.choose("source", "auto", "rancher", "kubernetes")},
            "server": {"listen": f":{port}"},
            "reload_on_change": lot.chance("reload"),
            "secret_requests": {"cleanup": lot.choose("cleanup", "keep", "delete")},
            "exporters": {"scc": {"type": "secret"}},
        },
        "networkPolicy": {"enabled": lot.chance("policy", 0.8), "dns": not lot.chance("no-dns")},
        "monitoring": {
            name: {"enabled": lot.rng.choice(("auto", True, False))}
            for name in ("podMonitor", "prometheusRule", "dashboard")
        },
        "sccOperator": {"enabled": lot.chance("scc")},
    }
    if lot.chance("requests", 0.3):
        values["config"]["secret_requests"]["enabled"] = lot.choose("enabled", True, False)
    if lot.chance("proxy"):
        values["proxy"] = {"https": NOWHERE, "http": NOWHERE}
    if lot.chance("registry"):
        values["global"] = {"cattle": {"systemDefaultRegistry": "registry.example.com"}}
    _draw_replicas(lot, values)
    _draw_exporters(lot, values)
    _draw_access(lot, values)
    return Drawn(values, values["sccOperator"]["enabled"], " ".join(lot.drawn))


def draw_freely(number: int) -> Drawn:
    """The combination on a free port of this machine."""
    return draw(number, free_ports(1)[0])


def _draw_replicas(lot: Lot, values: dict[str, Any]) -> None:
    if lot.chance("ha"):
        values["replicas"] = lot.choose("replicas", 2, 3)
    elif lot.chance("election", 0.3):
        values["config"]["leader_election"] = {"enabled": True}
    if lot.chance("air-gapped"):
        values["persistence"] = {"enabled": True}
        values["networkPolicy"]["cidrs"] = ["10.0.0.0/8"]
        values["config"]["exporters"]["archive"] = {
            "type": "file",
            "directory": "/var/lib/telemetryd/archive",
            "keep": lot.rng.randrange(1, 1_000_000),
        }
        if values.get("replicas", 1) > 1:
            values["persistence"]["accessMode"] = "ReadWriteMany"


def _draw_exporters(lot: Lot, values: dict[str, Any]) -> None:
    exporters = values["config"]["exporters"]
    if lot.chance("http"):
        exporters["receiver"] = {
            "type": "http",
            "format": lot.choose("format", "scc", "fleet"),
            "url": "https://127.0.0.1:9/v1/payloads",
            "bearer_token_file": "/etc/telemetryd-credentials/receiver/token",
        }
        values["credentials"] = {"receiver": {"secretName": CREDENTIALS}}
    if lot.chance("otlp"):
        exporters["collector"] = {"type": "otlp", "endpoint": NOWHERE}
    if lot.chance("fleet"):
        exporters["fleet"] = {
            "type": "secret",
            "format": "fleet",
            "secret": "telemetryd-fleet",
            "enabled": lot.chance("enabled", 0.7),
        }


def _draw_access(lot: Lot, values: dict[str, Any]) -> None:
    if lot.chance("tls"):
        values["tls"] = {"secretName": TLS_SECRET, "clientCA": lot.chance("client-ca")}
        values["config"]["server"]["kubernetes_auth"] = lot.chance("auth")
