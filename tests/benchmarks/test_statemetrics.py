"""When kube-state-metrics counts as synced; a script takes its place."""

import sys
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.errors import HolderError
from benchmarks.statemetrics import KubeStateMetrics

PROGRAM = """#!{python}
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

port = next(int(a.partition("=")[2]) for a in sys.argv if a.startswith("--port="))
scrapes = 0


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self):
        global scrapes
        scrapes += 1
        busy(0.05)
        nodes = range(3 if scrapes > 1 else 2)
        lines = [f'kube_node_info{{{{node="n{{n}}"}}}} 1' for n in nodes]
        lines += [f'kube_node_spec_unschedulable{{{{node="n{{n}}"}}}} {{n // 2}}' for n in nodes]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("\\n".join(lines).encode())

    def log_message(self, *_):
        pass


def busy(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


{begin}
HTTPServer(("127.0.0.1", port), Metrics).serve_forever()
"""


def program(folder: Path, begin: str) -> Path:
    path = folder / "kube-state-metrics"
    path.write_text(PROGRAM.format(python=sys.executable, begin=begin))
    path.chmod(0o755)
    return path


def test_sync_ends_when_it_was_last_busy_before_a_scrape_has_all_nodes(tmp_path: Path) -> None:
    with KubeStateMetrics(program(tmp_path, "busy(0.3)"), tmp_path / "kubeconfig", 3) as holder:
        cold = holder.cold_sync()
        assert cold.nodes == 3  # the first scrape had two
        assert cold.cpu_s >= 0.3
        assert processes.cpu_s(holder.pid) >= cold.cpu_s + 0.05  # of the last scrape
        assert cold.wall_s >= 0.3
        assert 0 < cold.resident_bytes <= cold.peak_bytes
        assert holder.updates() == 1


def test_program_that_ends_is_said_to_with_its_log(tmp_path: Path) -> None:
    ending = program(tmp_path, 'sys.exit("no such cluster")')
    with (
        KubeStateMetrics(ending, tmp_path / "kubeconfig", 3) as holder,
        pytest.raises(HolderError, match="no such cluster"),
    ):
        holder.cold_sync()
