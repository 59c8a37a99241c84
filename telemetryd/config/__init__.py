"""Configuration: TOML and environment in, frozen dataclasses with effective values out.

``load`` finds and reads, ``settings`` declares every key, ``schema`` walks a table against such
a declaration, ``values`` holds one parser per kind of value. Nothing here opens a connection,
reads what a key points to, or knows what a setting does.
"""

from telemetryd.config.load import SYSTEM_CONFIG, find_config, load_config, parse_config
from telemetryd.config.settings import (
    Config,
    ExporterConfig,
    IdentityConfig,
    KubernetesConfig,
    SecretExporterConfig,
    ServerConfig,
)
from telemetryd.config.values import ListenAddress, parse_duration

__all__ = [
    "SYSTEM_CONFIG",
    "Config",
    "ExporterConfig",
    "IdentityConfig",
    "KubernetesConfig",
    "ListenAddress",
    "SecretExporterConfig",
    "ServerConfig",
    "find_config",
    "load_config",
    "parse_config",
    "parse_duration",
]
