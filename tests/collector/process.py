"""An OpenTelemetry Collector as a process on free ports, which prints and exposes what it gets."""

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.certificates import Pair
from tests.support.daemon import free_port
from tests.support.waiting import until

T = TypeVar("T")

_START_S = 60.0
_POLL_S = 0.1
_ITEM = re.compile(r"\s*-> (?P<key>[^:]+): (?P<value>.*)")

Points = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Numbers by the name of a metric and the attributes of a point."""


def find_program() -> Path | None:
    """The collector that `make collector` has built, or None."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    found = Path(cache) / "telemetryd" / "servers" / "collector" / "collector"
    return found if os.access(found, os.X_OK) else None


class Collector:
    """Receives OTLP over HTTP until the block is left.

    Args:
        program: As of `find_program`.
        folder: For its configuration and its output.
        pair: Its certificate; plain HTTP without one.
        token: The bearer token that it asks for.
        max_body_bytes: Larger bodies are refused; the collector's own limit where not given.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        *,
        pair: Pair | None = None,
        token: str | None = None,
        max_body_bytes: int | None = None,
    ) -> None:
        self._port, self.metrics_port = free_port(), free_port()
        self.url = f"{'https' if pair else 'http'}://127.0.0.1:{self._port}"
        self._folder = folder
        http: dict[str, Any] = {"endpoint": f"127.0.0.1:{self._port}"}
        if pair is not None:
            http["tls"] = {"cert_file": str(pair.cert), "key_file": str(pair.key)}
        if token is not None:
            http["auth"] = {"authenticator": "bearertokenauth"}
        if max_body_bytes is not None:
            http["max_request_body_size"] = max_body_bytes
        config = {
            "extensions": {"bearertokenauth": {"scheme": "Bearer", "token": token or "none"}},
            "receivers": {"otlp": {"protocols": {"http": http}}},
            "exporters": {
                "debug": {"verbosity": "detailed", "use_internal_logger": False},
                "prometheus": {"endpoint": f"127.0.0.1:{self.metrics_port}"},
            },
            "service": {
                "extensions": ["bearertokenauth"],
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {
                    "metrics": {"receivers": ["otlp"], "exporters": ["debug", "prometheus"]}
                },
            },
        }
        (folder / "collector.yaml").write_text(json.dumps(config))  # JSON is YAML
        with (
            (folder / "debug.txt").open("wb") as debug,
            (folder / "collector.log").open("wb") as log,
        ):
            self._process = subprocess.Popen(
                [program, "--config", f"file:{folder}/collector.yaml"],
                stdin=subprocess.DEVNULL,
                stdout=debug,
                stderr=log,
            )

    def __enter__(self) -> Self:
        try:
            self.until(lambda: "Everything is ready" in self.log())
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

    def log(self) -> str:
        """What it says of itself."""
        return (self._folder / "collector.log").read_text(errors="replace")

    def until(self, probe: Callable[[], T]) -> T:
        """The first truthy result of the probe.

        Raises:
            AssertionError: It stayed falsy, or the collector ended.
        """
        return until(
            probe,
            "the collector",
            deadline_s=_START_S,
            more=lambda: self.log()[-4000:],
            ended=self._process.poll,
        )

    def exposed(self) -> str:
        """What its `prometheus` exporter shows."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def received(self) -> tuple[dict[str, str], Points]:
        """What its `debug` exporter has printed: units by metric, and all points."""
        units: dict[str, str] = {}
        points: Points = {}
        name, attributes, in_attributes = "", dict[str, str](), False
        for line in (self._folder / "debug.txt").read_text().splitlines():
            item = _ITEM.fullmatch(line)
            if line.startswith(("NumberDataPoints", "Metric #")):
                attributes, in_attributes = {}, False
            elif line == "Data point attributes:":
                in_attributes = True
            elif item is not None and in_attributes:
                attributes[item["key"]] = item["value"].removeprefix("Str(").removesuffix(")")
            elif item is not None and item["key"] == "Name":
                name = item["value"]
            elif item is not None and item["key"] == "Unit":
                units[name] = item["value"]
            elif line.startswith("Value: "):
                number = float(line.removeprefix("Value: "))
                points[name, frozenset(attributes.items())] = number
        return units, points

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
