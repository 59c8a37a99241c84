"""kube-state-metrics as a holder of core nodes: what plain Kubernetes has beside telemetryd.

It does not say when it holds everything. It has synced when it has used no CPU for a while and a
scrape has all nodes; its sync ended when it was last busy.
"""

import http.client
import re
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.errors import HolderError
from benchmarks.exposition import fetch
from benchmarks.holders import ColdSync, Program
from benchmarks.results import KUBE_STATE_METRICS
from tests.support.processes import free_ports

_LOOK_S = 0.01
_QUIET_S = 1.0
_QUIET_CORE = 0.01
"""Part of a core that does not count as busy."""
_TIMEOUT_S = 600.0
_NODE = re.compile(r"^kube_node_info\{", re.MULTILINE)
_CORDONED = re.compile(r"^kube_node_spec_unschedulable\{.*\} 1$", re.MULTILINE)


class KubeStateMetrics(Program):
    """``kube-state-metrics --resources=nodes``; it asks for protobuf by itself."""

    def __init__(self, program: Path, kubeconfig: Path, nodes: int) -> None:
        """Start it; it must hold so many nodes in the end."""
        self._wanted = nodes
        self._port, own_port = free_ports(2)
        command: list[str | Path] = [
            program,
            f"--kubeconfig={kubeconfig}",
            "--resources=nodes",
            "--host=127.0.0.1",
            f"--port={self._port}",
            "--telemetry-host=127.0.0.1",
            f"--telemetry-port={own_port}",
        ]
        super().__init__(KUBE_STATE_METRICS, command)

    def cold_sync(self) -> ColdSync:
        """Wait until it holds everything; all of it counts as the sync.

        Raises:
            HolderError: It ended, or took minutes.
        """
        while True:
            busy_s, cpu_s = self._await_quiet()
            memory = processes.memory(self.pid)  # a scrape takes more
            held = self._count()
            if held == self._wanted:
                break
        return ColdSync(
            loaded_s=0.0,
            loaded_cpu_s=0.0,
            wall_s=busy_s - self._started_s,
            cpu_s=cpu_s,
            peak_bytes=memory.peak_bytes,
            resident_bytes=memory.resident_bytes,
            nodes=held,
        )

    def updates(self) -> int | None:
        """How many nodes are cordoned, once it is at rest: it counts no updates."""
        self._await_quiet()
        return len(_CORDONED.findall(fetch(self._port, "/metrics")))

    def _count(self) -> int:
        """Nodes in a scrape; 0 while it does not listen."""
        try:
            return len(_NODE.findall(fetch(self._port, "/metrics")))
        except (OSError, http.client.HTTPException):
            return 0

    def _await_quiet(self) -> tuple[float, float]:
        """When it was last busy, and its CPU seconds then.

        Raises:
            HolderError: It ended, or is busy for minutes.
        """
        begun_s = busy_s = time.monotonic()
        spent_s = processes.cpu_s(self.pid)
        while (now_s := time.monotonic()) - busy_s < _QUIET_S:
            if self._process.poll() is not None or now_s - begun_s > _TIMEOUT_S:
                raise HolderError(f"{self.name} does not come to rest\n{self._said()}")
            time.sleep(_LOOK_S)
            cpu_s = processes.cpu_s(self.pid)
            if cpu_s - spent_s > (time.monotonic() - now_s) * _QUIET_CORE:
                busy_s = time.monotonic()
            spent_s = cpu_s
        return busy_s, spent_s
