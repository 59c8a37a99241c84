"""A Prometheus server with rules and targets of a test's own, as a process on a free port."""

import json
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.daemon import free_port
from tests.support.waiting import until

_POLL_S = 0.2
T = TypeVar("T")

Target = Mapping[str, Any]
"""A group of targets, as in a file of file_sd: `targets` and `labels`."""


class Prometheus:
    """Scrapes each second and judges the rules each second; gone with the block.

    Args:
        program: The server.
        folder: For its configuration, its data and its log.
        rules: Text of the rule file.
        job: One of scrape_configs, without where to find targets.
        targets: What it scrapes at first.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        rules: str,
        job: Mapping[str, Any],
        targets: Sequence[Target] = (),
    ) -> None:
        self._folder = folder
        self._port = free_port()
        self.scrape(targets)
        (folder / "rules.yml").write_text(rules)
        found = {"file_sd_configs": [{"files": [str(folder / "targets.json")]}]}
        timing = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config = {
            "global": {**timing, "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yml")],
            "scrape_configs": [{**job, **timing, **found}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(program),
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def _log(self) -> Path:
        return self._folder / "prometheus.log"

    def __enter__(self) -> Self:
        try:
            self.until("ready", lambda: self._get("/-/ready") is not None)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._end()

    def scrape(self, targets: Sequence[Target]) -> None:
        """From now on these are scraped; it sees the file change."""
        new = self._folder / "targets.new"
        new.write_text(json.dumps(list(targets)))
        new.rename(self._folder / "targets.json")

    def get(self, what: str, **query: object) -> Any:
        """`data` of an answer of the HTTP API.

        Raises:
            AssertionError: It was refused.
        """
        answer = self._get(f"/api/v1/{what}?{urllib.parse.urlencode(query)}")
        assert answer is not None, f"{what} {query}: {self._log.read_text()[-2000:]}"
        document = json.loads(answer)
        assert document["status"] == "success", document
        return document["data"]

    def firing(self) -> list[dict[str, Any]]:
        """Alerts that fire now."""
        return [each for each in self.get("alerts")["alerts"] if each["state"] == "firing"]

    def values(self, expr: str, *, since_s: float, step_s: float = 2.0) -> list[float]:
        """Every number that an expression has had since a moment of the wall clock."""
        answer = self.get("query_range", query=expr, start=since_s, end=time.time(), step=step_s)
        pairs = [pair for series in answer["result"] for pair in series["values"]]
        numbers = [float(text) for _, text in pairs]
        return [number for number in numbers if number == number]  # noqa: PLR0124 - no NaN

    def until(self, what: str, probe: Callable[[], T], within_s: float = 30.0) -> T:
        """The first truthy result of the probe.

        Raises:
            AssertionError: It stayed falsy, or the server ended; with the end of its log.
        """
        return until(
            probe,
            what,
            deadline_s=within_s,
            more=lambda: self._log.read_text()[-2000:],
            ended=self._process.poll,
        )

    def _get(self, path: str) -> bytes | None:
        url = f"http://127.0.0.1:{self._port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            return None

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
