"""The tables ``[[exporters]]``: what every type takes, what each takes of its own, and their rules.

A key is a field, as in ``settings``.
"""

import ipaddress
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from telemetryd.config.schema import Derived, Restricts, Rule, Unique
from telemetryd.config.storage import AbsolutePath, Size
from telemetryd.config.values import (
    HOUR_S,
    Boolean,
    Choice,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Integer,
    Number,
    Url,
)

DEFAULT_INTERVAL_S = 60.0
LONGEST_DEFAULT_TIMEOUT_S = 10.0
FORMATS = ("scc", "fleet", "fleet-v1")
"""What a payload can hold; ``export.formats`` makes each of them."""

_METRICS_PATH = "/v1/metrics"
SCC_SECRETS = frozenset({"rancher-scc-telemetry", "rancher-scc-metrics"})
"""Secrets whose readers take the SCC payload: scc-operator crashes on any other document."""


def is_in_clear(url: str) -> bool:
    """Whether others can read what is sent there: plain http that leaves this machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_over_tls(url: str) -> bool:
    """Whether certificates have a meaning there."""
    return urlsplit(url).scheme == "https"


def metrics_url(endpoint: str) -> str:
    """Where OTLP metrics go: under the endpoint, unless its path names the place already.

    The path is that of the OTLP specification, "OTLP/HTTP Request". Backends document their
    endpoint as a base, with a path of their own or without.
    """
    base = endpoint.rstrip("/")
    return base if urlsplit(base).path.endswith(_METRICS_PATH) else base + _METRICS_PATH


def is_loopback(host: str) -> bool:
    """Whether a host or IP address is this machine's loopback, by its looks alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def default_timeout_s(interval_s: float) -> float:
    """The timeout of an attempt where none is given: 10 s, or half of a short interval."""
    return min(LONGEST_DEFAULT_TIMEOUT_S, interval_s / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterConfig:
    """``[[exporters]]``: what every type has.

    Attributes:
        name: Unique among the exporters.
        enabled: False keeps it registered, but it never runs.
        interval_s: From one run to the next.
        format: What is sent; ``fleet`` has more than ``scc``, and needs a Secret of its own.
            ``fleet-v1`` is its former version.
        max_silence_s: An unchanged payload is sent again after this time.
        timeout_s: Of one attempt; left out, the lesser of 10s and half of the interval.
        jitter: Part of the interval by which each run may come late.
        splay_max_s: The runs of many installations are spread over at most this time.
        retry_base_s: First step of the exponential backoff between attempts of a run.
        retry_cap_s: Its longest step.
        retry_budget_s: No attempt of a run starts later than this after the first.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ("timeout_s", "interval_s"),
            lambda timeout_s, interval_s: timeout_s < interval_s,
            "must be shorter than interval; leave it out for the lesser of 10s and half of that",
        ),
        Rule(
            ("retry_base_s", "retry_cap_s"),
            lambda base_s, cap_s: base_s <= cap_s,
            "must not be longer than retry_cap",
        ),
    )
    UNIQUE: ClassVar[tuple[Unique, ...]] = (Unique(("name",), "name"),)

    type: ClassVar[str]
    name: Annotated[str, DnsLabel(reserved="secretrequest/")]
    enabled: Annotated[bool, Boolean(), Restricts(value=False)] = True
    interval_s: Annotated[float, Duration()] = DEFAULT_INTERVAL_S
    format: Annotated[str, Choice(FORMATS)] = "scc"
    max_silence_s: Annotated[float, Duration()] = 24 * HOUR_S
    timeout_s: Annotated[
        float,
        Duration(minimum_s=0.1, maximum_s=HOUR_S),
        Derived(("interval_s",), default_timeout_s),
    ] = default_timeout_s(DEFAULT_INTERVAL_S)
    jitter: Annotated[float, Number(0, 0.5)] = 0.0
    splay_max_s: Annotated[float, Duration(minimum_s=0)] = 0.0
    retry_base_s: Annotated[float, Duration(minimum_s=0.001, maximum_s=HOUR_S)] = 1.0
    retry_cap_s: Annotated[float, Duration(minimum_s=0.001, maximum_s=HOUR_S)] = 30.0
    retry_budget_s: Annotated[float, Duration(minimum_s=0)] = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretExporterConfig(ExporterConfig):
    """An exporter of type ``secret``: one Kubernetes Secret.

    Attributes:
        namespace: Namespace of the Secret, which must exist.
        secret: Name of the Secret, which is made where it doesn't exist.
        takeover: Take a Secret over from another writer without waiting.
        quiet_period_s: Otherwise, how long its bytes must have stayed the same.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        *ExporterConfig.RULES,
        Rule(
            ("secret", "format"),
            lambda secret, format: format == "scc" or secret not in SCC_SECRETS,  # noqa: A006
            'is read by what takes format "scc" alone: give another one\'s payload a Secret of its '
            "own",
        ),
    )
    UNIQUE: ClassVar[tuple[Unique, ...]] = (
        *ExporterConfig.UNIQUE,
        Unique(("namespace", "secret"), "Secret"),
    )

    type: ClassVar[str] = "secret"
    namespace: Annotated[str, DnsLabel()] = "cattle-telemetry-system"
    secret: Annotated[str, DnsSubdomain()] = "rancher-scc-telemetry"  # noqa: S105 - its name
    takeover: Annotated[bool, Boolean()] = False
    quiet_period_s: Annotated[float, Duration()] = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileExporterConfig(ExporterConfig):
    """An exporter of type ``file``: dated snapshots in a folder.

    Attributes:
        directory: The exporter's own folder; its last part is made where it doesn't exist.
        keep: So many snapshots stay, the newest included; the oldest go.
        max_bytes: So much all of them may take; left out: no limit. The newest stays in any case.
        compress: Write gzip.
    """

    UNIQUE: ClassVar[tuple[Unique, ...]] = (
        *ExporterConfig.UNIQUE,
        Unique(("directory",), "directory"),
    )

    type: ClassVar[str] = "file"
    directory: Annotated[str, AbsolutePath()]
    keep: Annotated[int, Integer(1, 1_000_000)] = 48
    max_bytes: Annotated[int | None, Size()] = None
    compress: Annotated[bool, Boolean()] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteExporterConfig(ExporterConfig):
    """An exporter that sends to another site, where many daemons must not come at one moment."""

    splay_max_s: Annotated[float, Duration(minimum_s=0)] = 300.0


def web_rules(url: str) -> tuple[Rule, ...]:
    """The ``RULES`` of a table that sends over HTTP, those of ``ExporterConfig`` included.

    No credential goes over plain http to another machine, and files of TLS need an https URL.
    ``url`` names the attribute that holds the URL.
    """
    unsafe = (
        "would be readable by others on plain http: give the address as https, or that of a "
        "loopback interface"
    )
    pointless = "has no meaning on plain http: leave it out, or give the address as https"
    return (
        *ExporterConfig.RULES,
        *(
            Rule((name, url), lambda path, url: path is None or not is_in_clear(url), unsafe)
            for name in ("headers_file", "bearer_token_file")
        ),
        *(
            Rule((name, url), lambda path, url: path is None or is_over_tls(url), pointless)
            for name in ("ca_file", "client_cert_file", "client_key_file")
        ),
        Rule(
            ("client_key_file", "client_cert_file"),
            lambda key, certificate: key is None or certificate is not None,
            "is the key of no certificate: give client_cert_file too",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebExporterConfig(RemoteExporterConfig):
    """An exporter that sends over HTTP. Files are read whenever they are used.

    Attributes:
        headers_file: Lines ``Name: value`` that every request carries.
        bearer_token_file: A token, sent as ``Authorization: Bearer``.
        ca_file: PEM of the authorities for the receiver's certificate; left out: the system's.
        client_cert_file: PEM of our own certificate, and of its key too where that isn't apart.
        client_key_file: PEM of its key; left out where that stands in ``client_cert_file``.
        compress: Send gzip.
    """

    headers_file: Annotated[str | None, AbsolutePath()] = None
    bearer_token_file: Annotated[str | None, AbsolutePath()] = None
    ca_file: Annotated[str | None, AbsolutePath()] = None
    client_cert_file: Annotated[str | None, AbsolutePath()] = None
    client_key_file: Annotated[str | None, AbsolutePath()] = None
    compress: Annotated[bool, Boolean()] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpExporterConfig(WebExporterConfig):
    """An exporter of type ``http``: payloads by POST.

    Attributes:
        url: Where payloads are posted; ``http://`` takes no credentials.
        spool: Keep what isn't delivered yet, and what was, on disk.
    """

    RULES: ClassVar[tuple[Rule, ...]] = web_rules("url")
    # A receiver identifies payloads by installation and sequence: two exporters would mix theirs.
    UNIQUE: ClassVar[tuple[Unique, ...]] = (*ExporterConfig.UNIQUE, Unique(("url",), "URL"))

    type: ClassVar[str] = "http"
    url: Annotated[str, Url()]
    spool: Annotated[bool, Boolean()] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpExporterConfig(WebExporterConfig):
    """An exporter of type ``otlp``: OpenTelemetry metrics in JSON.

    Attributes:
        endpoint: Of the collector; ``/v1/metrics`` is added unless the path ends so.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        *web_rules("endpoint"),
        Rule(
            ("format",),
            lambda given: given == "scc",
            "has no meaning for metrics: leave it out",
        ),
    )
    UNIQUE: ClassVar[tuple[Unique, ...]] = (
        *ExporterConfig.UNIQUE,
        Unique(("endpoint",), "endpoint", metrics_url),
    )

    type: ClassVar[str] = "otlp"
    endpoint: Annotated[str, Url()]


EXPORTER_TYPES = (
    SecretExporterConfig,
    FileExporterConfig,
    HttpExporterConfig,
    OtlpExporterConfig,
)
