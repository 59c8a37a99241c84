"""kubernetes_asyncio's loaders, with what they lack: a deadline, both pipes drained, refresh.

The only module that imports kubernetes_asyncio, which takes its time even without its models:
import this one when a connection is made, not before.
"""

import json
import logging
import subprocess
from collections.abc import Callable
from typing import Any

import anyio

from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.credentials import REFRESH_TIMEOUT_S, Grant
from telemetryd.kube.kubeconfig import Chosen
from telemetryd.kube.slim import slim_library
from telemetryd.kube.tls import Origin, TlsFiles

with slim_library():
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import ConfigException
    from kubernetes_asyncio.config.dateutil import parse_rfc3339
    from kubernetes_asyncio.config.exec_provider import ExecProvider
    from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
    from kubernetes_asyncio.config.kube_config import FileOrData, KubeConfigLoader

_POLL_S = 300.0
"""An identity provider's token is looked at this often; it is renewed within five minutes of its
end, which the loader knows and we don't."""


def quieten() -> None:
    """Keep the library's loggers at warnings: at DEBUG they print whole bodies."""
    for name in ("kubernetes_asyncio", "client"):
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.WARNING:
            logger.setLevel(logging.WARNING)


def load_in_cluster(environ: dict[str, str], token_file: str, ca_file: str) -> str:
    """URL of the API server that runs this pod; blocks.

    Raises:
        ConfigError: What is mounted into the pod can't be used.
    """
    configuration = Configuration()
    try:
        InClusterConfigLoader(
            token_filename=token_file,
            cert_filename=ca_file,
            try_refresh_token=False,
            environ=environ,
        ).load_and_set(configuration)
    except (ConfigException, OSError, ValueError) as error:
        raise ConfigError(
            Problem("in-cluster", "", f"{error}: mount the service account's token")
        ) from error
    return _text(configuration.host)


class _Plugin(ExecProvider):
    """An exec plugin whose pipes are both drained and which doesn't outlive its deadline."""

    async def run(self, previous_response: str | None = None) -> dict[str, Any]:
        """The status of the ExecCredential it prints.

        Raises:
            ConfigException: It failed; the message holds nothing that it printed.
        """
        spec: dict[str, Any] = {"interactive": False}
        if previous_response:
            spec["response"] = previous_response
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}
        try:
            done = await anyio.run_process(
                self.args,
                stdin=subprocess.DEVNULL,
                check=False,
                env={**self.env, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            )
        except OSError as error:
            raise ConfigException(
                f"the plugin {self.args[0]} can't be run ({error.strerror})"
            ) from error
        if done.returncode != 0:
            raise ConfigException(
                f"the plugin ended with status {done.returncode}: run it by hand to see why"
            )
        try:
            credential = json.loads(done.stdout)
            status = credential["status"]
            version = credential["apiVersion"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigException("the plugin printed no ExecCredential") from None
        if version != self.api_version or not isinstance(status, dict):
            raise ConfigException(f"the plugin printed no ExecCredential of {self.api_version}")
        return status


class _Loader(KubeConfigLoader):
    """The library's loader with our plugin runner in place of its own."""

    expires_at: float | None = None
    cert_file: str | None
    key_file: str | None

    async def load_from_exec_plugin(self) -> bool:
        """Run the plugin and take over what it grants, a certificate included.

        Raises:
            ConfigException: It grants nothing.
        """
        if self._user is None:
            raise ConfigException("no user")
        status = await _Plugin(self._user["exec"]).run()
        token, certificate = status.get("token"), status.get("clientCertificateData")
        if not isinstance(token, str) and not isinstance(certificate, str):
            raise ConfigException("the plugin grants neither a token nor a certificate")
        if isinstance(token, str):
            self.token = f"Bearer {token.strip()}"
        if isinstance(certificate, str):
            if not isinstance(status.get("clientKeyData"), str):
                raise ConfigException("the plugin grants a certificate without its key")
            self.cert_file = _as_file(status, "clientCertificateData")
            self.key_file = _as_file(status, "clientKeyData")
        expires = status.get("expirationTimestamp")
        self.expires_at = parse_rfc3339(expires).timestamp() if expires else None
        return True


def _text(value: str | None) -> str:
    return value or ""


def _as_file(status: dict[str, Any], key: str) -> str | None:
    name: str | None = FileOrData(
        status, None, data_key_name=key, base64_file_content=False
    ).as_file()
    return name


class KubeconfigConnection:
    """What the library's loader makes of one context, and makes of it again when asked."""

    def __init__(self, chosen: Chosen, now: Callable[[], float]) -> None:
        """Load nothing yet.

        Args:
            chosen: The context.
            now: Unix time in seconds.
        """
        self._chosen = chosen
        self._now = now
        self._configuration = Configuration()
        self._loader = _Loader(chosen.as_kubeconfig(), config_base_path="")

    @property
    def server(self) -> str:
        """URL of the API server, without a slash at its end."""
        return _text(self._configuration.host)

    @property
    def server_name(self) -> str | None:
        """Name that the server's certificate must have, None for the URL's."""
        name: str | None = self._configuration.tls_server_name
        return name

    @property
    def proxy(self) -> str | None:
        """``proxy-url``."""
        proxy: str | None = self._configuration.proxy
        return proxy

    def files(self) -> TlsFiles:
        """What the SSL context is made of now."""
        configuration, chosen = self._configuration, self._chosen
        return TlsFiles(
            configuration.ssl_ca_cert,
            configuration.cert_file,
            configuration.key_file,
            configuration.verify_ssl,
            Origin(chosen.cluster.file, f"{chosen.cluster.key}.certificate-authority"),
            Origin(chosen.user.file, f"{chosen.user.key}.client-certificate"),
        )

    async def load(self) -> Grant:
        """Load everything under a deadline.

        Raises:
            ConfigError: It can't be used.
        """
        user = self._chosen.user
        try:
            with anyio.fail_after(REFRESH_TIMEOUT_S):
                return await self.fetch(False)
        except TimeoutError as error:
            why = f"no credential within {REFRESH_TIMEOUT_S:.0f} s"
            raise ConfigError(user.problem(self._method(), why)) from error
        except ConfigException as error:
            raise ConfigError(user.problem(self._method(), str(error))) from None
        except Exception as error:  # noqa: BLE001 - it lets anything through
            # Its messages may quote what it was given.
            why = f"kubernetes_asyncio can't use it ({type(error).__name__})"
            raise ConfigError(user.problem(self._method(), why)) from None

    async def fetch(self, _refused: bool) -> Grant:  # noqa: FBT001 - the shape of a callback
        """Load everything again, and what it grants."""
        await self._loader.load_and_set(self._configuration)
        expires_at = self._loader.expires_at
        if "auth-provider" in self._chosen.user.body:
            expires_at = self._now() + _POLL_S
        return Grant(self._configuration.api_key.get("BearerToken"), expires_at)

    def _method(self) -> str:
        body = self._chosen.user.body
        return next((key for key in ("auth-provider", "exec") if key in body), "")
