"""Every key of the file: its name, kind, default, meaning, and the rules between keys.

A key is a field, its kind stands in ``Annotated``; a duration's attribute carries its unit
(``interval_s``), the key in the file doesn't. Its meaning stands in the docstring's ``Attributes``,
of which ``docs/configuration.md`` is made. The tables of exporters are in ``exporters``.
"""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

from telemetryd.config.exporters import (
    DEFAULT_INTERVAL_S,
    EXPORTER_TYPES,
    ExporterConfig,
    SecretExporterConfig,
    is_loopback,
)
from telemetryd.config.history import (
    DEFAULT_ENTITLEMENT,
    DEFAULT_HISTORY,
    EntitlementConfig,
    HistoryConfig,
)
from telemetryd.config.paths import ControlSocket, SocketPath
from telemetryd.config.plugins import find_type, installed_types
from telemetryd.config.schema import Env, Restricts, Rule, Table, Variants
from telemetryd.config.storage import AbsolutePath
from telemetryd.config.values import (
    HOUR_S,
    Boolean,
    BooleanOrAuto,
    Choice,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Integer,
    Listen,
    ListenAddress,
    Text,
    Url,
    Uuid,
)

MIN_DEADLINE_TO_RETRY = 1.2
"""A renew deadline must leave time for a second try, whatever the jitter (client-go's factor)."""
DEFAULT_LISTEN = ListenAddress("127.0.0.1", 10464)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """``[kubernetes]``: which API server and how to ask it.

    Attributes:
        kubeconfig: File; left out: ``$KUBECONFIG``, else in-cluster, else ``~/.kube/config``.
        context: Of the kubeconfig; left out: its current one.
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
    """``[identity]``: overrides of what is otherwise discovered.

    Attributes:
        install_uuid: Of the Rancher installation.
        cluster_uuid: Of the cluster that hosts it: the UID of its namespace kube-system.
        server_url: URL of Rancher.
        version: Version of the product.
        git_hash: Commit of the product's build.
        product: Name of the product, as the receiver knows it.
    """

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
        cluster_ids: Pseudonymous ids of clusters, and rows exact enough to recognise one.
    """

    server_url: Annotated[str, Choice(("send", "omit")), Restricts("omit")] = "send"
    cluster_ids: Annotated[str, Choice(("anonymous", "omit")), Restricts("omit")] = "anonymous"

    @property
    def omitted(self) -> frozenset[str]:
        """Names of the keys that omit something."""
        return frozenset(key.name for key in fields(self) if getattr(self, key.name) == "omit")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``[server]``: where HTTP is served and to whom, and where commands are taken.

    The files are read again when they change. ``/livez``, ``/healthz`` and ``/readyz`` are shown to
    everyone; with ``client_ca_file`` and ``kubernetes_auth`` either suffices for the rest.

    Attributes:
        listen: For metrics, health and status; ``:10464`` is every address of the machine.
        tls_cert_file: PEM of the certificate to show, and of those between it and its authority;
            left out: plain HTTP.
        tls_key_file: PEM of its key, not encrypted.
        client_ca_file: PEM of authorities: a client whose certificate one of them has signed may
            look.
        kubernetes_auth: A client with a bearer token whose user may ``get`` the path, by the API
            server's TokenReview and SubjectAccessReview, may look. Needs TLS, unless on loopback.
        expose_payload: Show at ``/payload/NAME`` what each exporter last sent.
        expose_history: Show ``/history`` to everyone who may look; left out: where ``listen`` is a
            loopback address, and to clients that a certificate or a token lets in.
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
    # None where no folder is usable, or none has been looked for, as with state_dir.
    control_socket: Annotated[ControlSocket | None, SocketPath()] = None
    tls_cert_file: Annotated[str | None, AbsolutePath()] = None
    tls_key_file: Annotated[str | None, AbsolutePath()] = None
    client_ca_file: Annotated[str | None, AbsolutePath()] = None
    kubernetes_auth: Annotated[bool, Boolean()] = False
    expose_payload: Annotated[bool, Boolean()] = False
    expose_history: Annotated[bool, Boolean()] = False

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
        enabled: True where more than one replica runs.
        namespace: Namespace of the Lease.
        name: Name of the Lease.
        lease_duration_s: A leader that is gone is replaced after this time.
        renew_deadline_s: A leader that can't renew for this time stops exporting.
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
        enabled: ``auto`` is where the source is Rancher. Nothing is done without the CRD.
        interval_s: From one run to the next of the exporters that requests get.
        cleanup: ``delete`` removes what was written once its request is gone; ``keep`` leaves it.
        takeover: Overrule another controller and another writer of telemetry at once; otherwise
            no other writer is overruled.
        quiet_period_s: A request whose status another controller wrote is left alone until that
            hasn't changed for this time. It never takes over a Secret.
    """

    enabled: Annotated[bool | str, BooleanOrAuto()] = "auto"
    interval_s: Annotated[float, Duration()] = DEFAULT_INTERVAL_S
    cleanup: Annotated[str, Choice(("keep", "delete"))] = "keep"
    takeover: Annotated[bool, Boolean()] = False
    quiet_period_s: Annotated[float, Duration()] = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, with the effective value of everything.

    Attributes:
        enabled: False switches collection off; so can the environment.
        log_level: The least severe level that is logged.
        log_format: ``auto`` is journald prefixes under systemd, text on a terminal, else JSON.
        state_dir: Folder for what outlives the process; left out: the first usable one of
            ``$STATE_DIRECTORY``, ``/var/lib/telemetryd`` and ``telemetryd`` under
            ``$XDG_STATE_HOME``.
        drain_timeout_s: Longest shutdown; keep it below the service manager's kill timeout.
        reload_on_change: Reload when the file's content has changed, without a signal or command.
        kubernetes: Which API server, and how to ask it.
        identity: Overrides of what is discovered.
        privacy: What payloads are made without.
        server: Where HTTP is served and commands are taken.
        leader_election: Whether replicas share a Lease.
        secret_requests: Whether SecretRequests are served.
        history: What is kept of the fleet's past.
        entitlement: How the subscription counts.
        exporters: Where payloads go; none at all with an empty array.
    """

    enabled: Annotated[bool, Boolean(), Restricts(value=False)] = True
    log_level: Annotated[str, Choice(("debug", "info", "warning", "error"))] = "info"
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
    history: Annotated[HistoryConfig, Table(HistoryConfig)] = DEFAULT_HISTORY
    entitlement: Annotated[EntitlementConfig, Table(EntitlementConfig)] = DEFAULT_ENTITLEMENT
    exporters: Annotated[
        tuple[ExporterConfig, ...],
        Variants(ExporterConfig, EXPORTER_TYPES, installed_types, find_type),
    ] = (SecretExporterConfig(name="scc"),)
