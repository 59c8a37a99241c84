"""Configuration: TOML and environment in, frozen dataclasses with effective values out.

``load`` finds and reads, ``settings`` declares every key by the means of ``schema``, ``reading``
walks a table against such a declaration, ``overrides`` finds what is set above the file, ``values``
and ``storage`` hold one parser per kind of value. Nothing here opens a connection, reads what a key
points to, or knows what a setting does.
"""

from telemetryd.config.exporters import (
    FORMATS,
    ExporterConfig,
    FileExporterConfig,
    HttpExporterConfig,
    OtlpExporterConfig,
    RemoteExporterConfig,
    SecretExporterConfig,
    WebExporterConfig,
)
from telemetryd.config.history import EntitlementConfig, HistoryConfig
from telemetryd.config.load import (
    DEFAULTS,
    SYSTEM_CONFIG,
    ConfigFile,
    ConfigSource,
    find_config,
    load_config,
    parse_config,
)
from telemetryd.config.locate import ControlPlace, find_control_socket
from telemetryd.config.overrides import Assignment
from telemetryd.config.paths import ControlSocket
from telemetryd.config.restrictions import EnvironmentSwitches, read_switches
from telemetryd.config.settings import (
    Config,
    IdentityConfig,
    KubernetesConfig,
    PrivacyConfig,
    SecretRequestsConfig,
    ServerConfig,
)
from telemetryd.config.values import ListenAddress, parse_duration

__all__ = [
    "DEFAULTS",
    "FORMATS",
    "SYSTEM_CONFIG",
    "Assignment",
    "Config",
    "ConfigFile",
    "ConfigSource",
    "ControlPlace",
    "ControlSocket",
    "EntitlementConfig",
    "EnvironmentSwitches",
    "ExporterConfig",
    "FileExporterConfig",
    "HistoryConfig",
    "HttpExporterConfig",
    "IdentityConfig",
    "KubernetesConfig",
    "ListenAddress",
    "OtlpExporterConfig",
    "PrivacyConfig",
    "RemoteExporterConfig",
    "SecretExporterConfig",
    "SecretRequestsConfig",
    "ServerConfig",
    "WebExporterConfig",
    "find_config",
    "find_control_socket",
    "load_config",
    "parse_config",
    "parse_duration",
    "read_switches",
]
