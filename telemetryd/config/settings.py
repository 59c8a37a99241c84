"""Every key of the file: its name, kind, default, and the rules between keys.

A key is a field, its kind stands in ``Annotated``; a duration's attribute carries its unit
(``interval_s``), the key in the file doesn't. What a setting does belongs to whoever reads it.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from telemetryd.config.paths import ControlSocket, SocketPath
from telemetryd.config.plugins import InstalledTypes
from telemetryd.config.remote import is_in_clear, is_loopback, is_over_tls
from telemetryd.config.schema import Derived, Env, Rule, Table, Unique, Variants
from telemetryd.config.storage import AbsolutePath, Size
from telemetryd.config.switch import Switch
from telemetryd.config.values import (
    HOUR_S,
    Boolean,
    Choice,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Integer,
    Listen,
    ListenAddress,
    Number,
    Text,
    Url,
    Uuid,
)

DEFAULT_INTERVAL_S = 60.0
LONGEST_DEFAULT_TIMEOUT_S = 10.0
MIN_DEADLINE_TO_RETRY = 1.2
"""A renew deadline must leave time for a second try, whatever the jitter (client-go's factor)."""
FORMATS = ("scc", "fleet")
"""What a payload can hold; ``export.formats`` makes each of them."""

SCC_SECRETS = frozenset({"rancher-scc-telemetry", "rancher-scc-metrics"})
"""Secrets whose readers take the SCC payload: scc-operator crashes on any other document."""

DEFAULT_LISTEN = ListenAddress("127.0.0.1", 10464)


def default_timeout_s(interval_s: float) -> float:
    """The timeout of an attempt where none is given: 10 s, or half of a short interval."""
    return min(LONGEST_DEFAULT_TIMEOUT_S, interval_s / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """``[kubernetes]``: which API server and how to ask it.

    Attributes:
        kubeconfig: File; None for in-cluster, else ``$KUBECONFIG``, else ``~/.kube/config``.
        context: Of the kubeconfig; None for its current one.
        source: What is collected: a Rancher's fleet, or this cluster alone; ``auto`` goes by
            whether the API server serves Rancher's API group, and notices when that changes.
        page_size: Objects per page of a list.
        watch_list: Whether lists come as streams where the API server serves them so.
        compression: Ask for gzip: saves bandwidth, costs the API server CPU.
    """

    kubeconfig: Annotated[str | None, Text("a path", maximum=4096)] = None
    context: Annotated[str | None, Text("the name of a context")] = None
    source: Annotated[str, Choice(("auto", "rancher", "kubernetes"))] = "auto"
    page_size: Annotated[int, Integer(1, 10_000)] = 500
    watch_list: Annotated[str, Choice(("auto", "off"))] = "auto"
    compression: Annotated[bool, Boolean()] = False

    @property
    def streamed(self) -> bool:
        """Whether lists are asked for as streams at all."""
        return self.watch_list == "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """``[identity]``: overrides of what is otherwise discovered; None for discovered."""

    install_uuid: Annotated[str | None, Uuid()] = None
    cluster_uuid: Annotated[str | None, Uuid()] = None
    server_url: Annotated[str | None, Url()] = None
    version: Annotated[str | None, Text("a version", maximum=256)] = None
    git_hash: Annotated[str | None, Text("a commit", maximum=256)] = None
    product: Annotated[str | None, Text("a product name", maximum=256)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """``[privacy]``: what payloads are made without, of whatever format.

    Attributes:
        server_url: The URL of Rancher; its key stays, and is empty.
        cluster_ids: Anonymous ids of clusters, which let them be told apart over time.
    """

    server_url: Annotated[str, Choice(("send", "omit"))] = "send"
    cluster_ids: Annotated[str, Choice(("anonymous", "omit"))] = "anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``[server]``: where HTTP is served and to whom, and where commands are taken.

    The files are read anew when they change. ``/livez``, ``/healthz`` and ``/readyz`` are shown to
    everyone; with ``client_ca_file`` and ``kubernetes_auth`` either suffices for the rest.

    Attributes:
        listen: For metrics, health and status; ``:10464`` is every address of the machine.
        tls_cert_file: PEM of the certificate to show, and of those between it and its authority;
            left out: plain HTTP.
        tls_key_file: PEM of its key, not encrypted.
        client_ca_file: PEM of authorities: a client whose certificate one of them has signed may
            look.
        kubernetes_auth: A client with a bearer token whose user may ``get`` the path, by the API
            server's TokenReview and SubjectAccessReview, may look. Needs TLS, but on loopback.
        expose_payload: Show at ``/payload/NAME`` what each exporter last sent.
        control_socket: Where ``telemetryd ctl`` finds the daemon; left out: in
            ``$RUNTIME_DIRECTORY``, else in the state folder.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ("tls_cert_file", "tls_key_file"),
            lambda certificate, key: certificate is None or key is not None,
            "is a certificate without its key: give tls_key_file too",
        ),
        Rule(
            ("tls_key_file", "tls_cert_file"),
            lambda key, certificate: key is None or certificate is not None,
            "is the key of no certificate: give tls_cert_file too",
        ),
        Rule(
            ("client_ca_file", "tls_cert_file"),
            lambda authority, certificate: authority is None or certificate is not None,
            "has no meaning on plain http: give tls_cert_file and tls_key_file too",
        ),
        Rule(
            ("kubernetes_auth", "tls_cert_file", "listen"),
            lambda asked, certificate, listen: (
                not asked or certificate is not None or is_loopback(listen.host)
            ),
            "would have tokens sent in clear text: give tls_cert_file and tls_key_file too, or "
            "listen on a loopback address",
        ),
    )

    listen: Annotated[ListenAddress, Listen(), Env("TELEMETRYD_LISTEN")] = DEFAULT_LISTEN
    # None where no folder is usable, or none has been looked for.
    control_socket: Annotated[ControlSocket | None, SocketPath()] = None
    tls_cert_file: Annotated[str | None, AbsolutePath()] = None
    tls_key_file: Annotated[str | None, AbsolutePath()] = None
    client_ca_file: Annotated[str | None, AbsolutePath()] = None
    kubernetes_auth: Annotated[bool, Boolean()] = False
    expose_payload: Annotated[bool, Boolean()] = False

    @property
    def listen_host(self) -> str:
        """Host or IP address, empty for every address of the machine."""
        return self.listen.host

    @property
    def listen_port(self) -> int:
        """TCP port, 0 for a free one."""
        return self.listen.port


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderElectionConfig:
    """``[leader_election]``: one replica exports, the others stand by.

    Attributes:
        namespace: Of the Lease.
        name: Likewise.
        lease_duration_s: A leader that is gone is succeeded after so long.
        renew_deadline_s: A leader that can't renew for so long exports no more.
        retry_period_s: Between renewals.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ("lease_duration_s", "renew_deadline_s"),
            lambda duration_s, deadline_s: duration_s > deadline_s,
            "must be longer than renew_deadline",
        ),
        Rule(
            ("renew_deadline_s", "retry_period_s"),
            lambda deadline_s, retry_s: deadline_s > MIN_DEADLINE_TO_RETRY * retry_s,
            f"must be longer than {MIN_DEADLINE_TO_RETRY:g} times retry_period",
        ),
    )

    enabled: Annotated[bool, Boolean()] = False
    namespace: Annotated[str, DnsLabel()] = "cattle-telemetry-system"
    name: Annotated[str, DnsSubdomain()] = "telemetryd"
    lease_duration_s: Annotated[float, Duration(maximum_s=HOUR_S)] = 15.0
    renew_deadline_s: Annotated[float, Duration(minimum_s=0.1, maximum_s=HOUR_S)] = 10.0
    retry_period_s: Annotated[float, Duration(minimum_s=0.1, maximum_s=HOUR_S)] = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRequestsConfig:
    """``[secret_requests]``: whether SecretRequests are served, and how.

    Attributes:
        enabled: True, False, or ``auto``: where the source is Rancher. Without the CRD nothing is
            done in any case.
        interval_s: Of the exporters that requests get.
        cleanup: ``delete`` removes what was written once its request is gone; ``keep`` leaves it.
        takeover: As of an exporter of type ``secret``.
        quiet_period_s: Likewise.
    """

    enabled: Annotated[bool | str, Switch()] = "auto"
    interval_s: Annotated[float, Duration()] = DEFAULT_INTERVAL_S
    cleanup: Annotated[str, Choice(("keep", "delete"))] = "keep"
    takeover: Annotated[bool, Boolean()] = False
    quiet_period_s: Annotated[float, Duration()] = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterConfig:
    """``[[exporters]]``: what every type has.

    Attributes:
        jitter: Part of the interval by which each run may come late.
        max_silence_s: An unchanged payload is sent again after this time.
        retry_base_s: First step of the exponential backoff between attempts.
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
    enabled: Annotated[bool, Boolean()] = True
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
        directory: The folder; its last part is made where it doesn't exist.
        keep: So many snapshots stay, the newest included.
        max_bytes: So much all of them may take; None for no limit. The newest stays in any case.
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


def _web_rules(url: str) -> tuple[Rule, ...]:
    """What must hold between an attribute with a URL and those that say how to send there."""
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
        bearer_token_file: A token; None for none.
        ca_file: PEM of who may vouch for the receiver; None for the system's.
        client_cert_file: PEM of our own certificate, and of its key too where that isn't apart.
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
        spool: Keep what isn't delivered yet, and what was, on disk.
    """

    RULES: ClassVar[tuple[Rule, ...]] = _web_rules("url")
    # A receiver tells payloads apart by installation and sequence: two exporters would mix theirs.
    UNIQUE: ClassVar[tuple[Unique, ...]] = (*ExporterConfig.UNIQUE, Unique(("url",), "URL"))

    type: ClassVar[str] = "http"
    url: Annotated[str, Url()]
    spool: Annotated[bool, Boolean()] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpExporterConfig(WebExporterConfig):
    """An exporter of type ``otlp``: OpenTelemetry metrics in JSON."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        *_web_rules("endpoint"),
        Rule(
            ("format",),
            lambda given: given == "scc",
            "has no meaning for metrics: leave it out",
        ),
    )
    UNIQUE: ClassVar[tuple[Unique, ...]] = (
        *ExporterConfig.UNIQUE,
        Unique(("endpoint",), "endpoint"),
    )

    type: ClassVar[str] = "otlp"
    endpoint: Annotated[str, Url()]


EXPORTER_TYPES = (
    SecretExporterConfig,
    FileExporterConfig,
    HttpExporterConfig,
    OtlpExporterConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, with the effective value of everything.

    Attributes:
        enabled: False switches collection off; the environment can too, see ``optout``.
        log_format: ``auto`` is journald prefixes under systemd, text on a terminal, else JSON.
        state_dir: Folder for what outlives the process, not made yet; None where none is usable,
            or none has been looked for.
        drain_timeout_s: Longest shutdown.
        reload_on_change: Reload when the file's content has changed, without being told.
    """

    enabled: Annotated[bool, Boolean()] = True
    log_level: Annotated[
        str, Choice(("debug", "info", "warning", "error")), Env("TELEMETRYD_LOG_LEVEL")
    ] = "info"
    log_format: Annotated[str, Choice(("auto", "json", "text"))] = "auto"
    state_dir: Annotated[str | None, AbsolutePath()] = None
    drain_timeout_s: Annotated[float, Duration(maximum_s=HOUR_S)] = 20.0
    reload_on_change: Annotated[bool, Boolean()] = False
    kubernetes: Annotated[KubernetesConfig, Table(KubernetesConfig)] = KubernetesConfig()
    identity: Annotated[IdentityConfig, Table(IdentityConfig)] = IdentityConfig()
    privacy: Annotated[PrivacyConfig, Table(PrivacyConfig)] = PrivacyConfig()
    server: Annotated[ServerConfig, Table(ServerConfig)] = ServerConfig()
    leader_election: Annotated[LeaderElectionConfig, Table(LeaderElectionConfig)] = (
        LeaderElectionConfig()
    )
    secret_requests: Annotated[SecretRequestsConfig, Table(SecretRequestsConfig)] = (
        SecretRequestsConfig()
    )
    exporters: Annotated[
        tuple[ExporterConfig, ...], Variants(ExporterConfig, EXPORTER_TYPES, InstalledTypes())
    ] = (SecretExporterConfig(name="scc"),)
