"""The stable API: what plug-ins and programs that use telemetryd as a library may import.

``API_VERSION`` is (major, minor). The names in ``__all__`` here and in ``telemetryd.api.testing``,
their parameters, attributes and documented errors stay as they are within a major version. A minor
version adds names, optional parameters, and attributes with a default. A name that will go raises a
DeprecationWarning through a whole minor version of telemetryd before the next major version drops
it. Every other module may change at any time. docs/writing-an-exporter.md and docs/library.md show
how all of it is used.

Of four classes, a part is promised, without their constructors but that of the manager:

- ``ExporterManager``: ``run``, ``register``, ``unregister``, ``has``, ``status``, ``statuses``,
  ``payload``, ``start``, ``stop``, ``restart``, ``trigger``, ``drain_timeout_s``
- ``Gatherer``, made by ``gathering``: ``snapshot``, ``wait_ready``, ``missing``
- ``KubeClient``, made by its ``connect``: ``server``, ``login_problem``
- ``HttpTransport``, made by ``build_transport``: ``post``

Times are Unix seconds and durations are seconds (``_s``), unless a name says otherwise. Everything
runs on asyncio; an object belongs to the event loop in which it is first used.
"""

from typing import Final

from telemetryd.api.library import gathering
from telemetryd.config import (
    ExporterConfig,
    IdentityConfig,
    KubernetesConfig,
    PrivacyConfig,
    RemoteExporterConfig,
    WebExporterConfig,
)
from telemetryd.config.exporters import web_rules
from telemetryd.config.schema import Derived, Rule, Unique
from telemetryd.config.storage import AbsolutePath, Size
from telemetryd.config.values import (
    Boolean,
    Choice,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Integer,
    InvalidValue,
    Kind,
    Number,
    Text,
    Url,
    Uuid,
)
from telemetryd.daemon.exporters import build_transport
from telemetryd.errors import (
    ConfigError,
    ConflictError,
    ExportError,
    KubeError,
    ManagerError,
    NotLeading,
    NotReady,
    OutrankedError,
    PermanentError,
    Problem,
    Reason,
    RetryableError,
    TelemetrydError,
)
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import (
    BuildContext,
    ExportContext,
    Exporter,
    ExporterPlugin,
    ExporterSpec,
    Outcome,
)
from telemetryd.export.payloads.formats import make_renderer
from telemetryd.export.payloads.payload import Renderer
from telemetryd.export.sinks.credentials import read_credentials
from telemetryd.export.sinks.transport import (
    BodyLimit,
    HttpTransport,
    ReceiverAnswer,
    is_server_error,
    refusal,
)
from telemetryd.export.threads import StillHangingError, WorkerThread
from telemetryd.gather.gatherer import Gatherer
from telemetryd.kube.address import proxy_for
from telemetryd.kube.client import KubeClient
from telemetryd.kube.tls import TlsContext, TlsFiles
from telemetryd.model import (
    ClusterRow,
    Delivery,
    ExporterState,
    ExporterStatus,
    Identity,
    Payload,
    Snapshot,
    SnapshotSource,
    SourceKind,
    SystemRow,
    Totals,
)

API_VERSION: Final[tuple[int, int]] = (1, 0)
"""Major and minor version of this module and of ``telemetryd.api.testing``."""

__all__ = [
    "API_VERSION",
    "AbsolutePath",
    "BodyLimit",
    "Boolean",
    "BuildContext",
    "Choice",
    "ClusterRow",
    "ConfigError",
    "ConflictError",
    "Delivery",
    "Derived",
    "DnsLabel",
    "DnsSubdomain",
    "Duration",
    "ExportContext",
    "ExportError",
    "Exporter",
    "ExporterConfig",
    "ExporterManager",
    "ExporterPlugin",
    "ExporterSpec",
    "ExporterState",
    "ExporterStatus",
    "Gatherer",
    "HttpTransport",
    "Identity",
    "IdentityConfig",
    "Integer",
    "InvalidValue",
    "Kind",
    "KubeClient",
    "KubeError",
    "KubernetesConfig",
    "ManagerError",
    "NotLeading",
    "NotReady",
    "Number",
    "Outcome",
    "OutrankedError",
    "Payload",
    "PermanentError",
    "PrivacyConfig",
    "Problem",
    "Reason",
    "ReceiverAnswer",
    "RemoteExporterConfig",
    "Renderer",
    "RetryableError",
    "Rule",
    "Size",
    "Snapshot",
    "SnapshotSource",
    "SourceKind",
    "StillHangingError",
    "SystemRow",
    "TelemetrydError",
    "Text",
    "TlsContext",
    "TlsFiles",
    "Totals",
    "Unique",
    "Url",
    "Uuid",
    "WebExporterConfig",
    "WorkerThread",
    "build_transport",
    "gathering",
    "is_server_error",
    "make_renderer",
    "proxy_for",
    "read_credentials",
    "refusal",
    "web_rules",
]
