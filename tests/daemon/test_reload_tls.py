"""What a reload builds of TLS for exporters that really send over https: only what changed."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd.config import ExporterConfig
from telemetryd.daemon.exporters import ExporterFactory
from telemetryd.export.exporter import Exporter, ExporterSpec
from tests.daemon.test_reload import Bench
from tests.support.certificates import Authority, Contexts, server_side
from tests.support.receiver import receiving

pytestmark = pytest.mark.anyio

EXPORTERS = 25
EXPORTER = """
[[exporters]]
name = "e{number}"
type = "http"
url = "{url}/{number}"
ca_file = "{ca_file}"
client_cert_file = "{cert_file}"
client_key_file = "{key_file}"
interval = "{interval}"
timeout = "1m"
max_silence = "1s"
splay_max = "0s"
spool = false
retry_base = "100ms"
"""


class NoRequests:
    """None of these exporters asks an API server."""

    async def request(self, *_: Any, **__: Any) -> bytes:
        raise AssertionError


@dataclass
class WebBench(Bench):
    """The same with the exporters of a daemon."""

    factory: ExporterFactory = field(
        default_factory=lambda: ExporterFactory(NoRequests(), now=time.time)
    )

    def build(self, config: ExporterConfig) -> tuple[ExporterSpec, Exporter]:
        return self.factory.build(config)

    def spec(self, config: ExporterConfig) -> ExporterSpec:  # type: ignore[override]
        return self.factory.spec(config)

    async def deliver(self) -> None:
        """Each exporter delivers once more; few at a time, as a machine may be slow."""
        names = [status.name for status in self.manager.statuses()]
        for begin in range(0, len(names), 5):
            async with anyio.create_task_group() as group:
                for name in names[begin : begin + 5]:
                    group.start_soon(self._deliver, name)

    async def _deliver(self, name: str) -> None:
        runs = self.manager.stats()[name].runs
        before, over = runs["success"], -1
        with anyio.fail_after(120):
            while runs["success"] == before:
                if over != (over := runs.total()):
                    self.manager.trigger(name)
                await anyio.sleep(0.05)


@pytest.mark.timeout(900)
async def test_reload_of_intervals_builds_no_tls_context_and_one_of_a_ca_only_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "ca")
    shown, client = authority.issue("receiver"), authority.issue("client")
    async with receiving(tls=server_side(shown, client_ca=authority.ca)) as receiver:

        def exporter(number: int, interval: str, ca_file: Path = authority.ca) -> str:
            return EXPORTER.format(
                number=number,
                url=receiver.url,
                ca_file=ca_file,
                cert_file=client.cert,
                key_file=client.key,
                interval=interval,
            )

        def config(interval: str) -> str:
            return "".join(exporter(number, interval) for number in range(EXPORTERS))

        contexts = Contexts(monkeypatch)
        bench = WebBench.make(tmp_path, config("1h"))
        assert isinstance(bench, WebBench)
        async with bench.running():
            await bench.deliver()
            built = contexts.built
            assert built >= EXPORTERS, "each has one of its own"

            result = await bench.reload(config("2h"))
            assert (result.ok, len(result.changes)) == (True, EXPORTERS)
            await bench.deliver()
            assert contexts.built == built

            other = tmp_path / "other.crt"
            other.write_bytes(authority.ca.read_bytes())
            changed = config("2h").replace(str(authority.ca), str(other), 1)
            assert (await bench.reload(changed)).ok
            await bench.deliver()
            assert 0 < contexts.built - built < 5, "of one exporter: a look at it, and its own"
