"""kubernetes_asyncio's loaders: a pod's own login, and identity providers (OIDC).

The only module that imports kubernetes_asyncio, which is slow even without its models: import this
one when a login is made, not before.
"""

import base64
import copy
import logging
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp

from telemetryd.errors import ConfigError, Problem, Reason, Unavailable
from telemetryd.kube.credentials import Grant
from telemetryd.kube.entries import KubeconfigEntry
from telemetryd.kube.lightimport import without_models
from telemetryd.kube.tls import Origin, TlsFiles, build_context

with without_models():
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import ConfigException
    from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader
    from kubernetes_asyncio.config.openid import OpenIDRequestor

_POLL_S = 300.0
"""Between checks of an identity provider's token. The loader renews it within five minutes of its
expiry, which we don't know."""


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
    return configuration.host or ""


class _Requestor(OpenIDRequestor):
    """Asks an OIDC issuer, whose certificate the library would not check without a CA."""

    def __init__(self, config: dict[str, Any], context: ssl.SSLContext) -> None:
        secret = config.get("client-secret") or ""
        super().__init__(config["client-id"], secret, config["idp-issuer-url"].rstrip("/"))
        self._context = context

    def _get_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=self._context)


class _Loader(KubeConfigLoader):
    """The library's loader, with a CA that needs no temporary file."""

    issuer: TlsFiles

    async def _refresh_oidc(self, provider: Any) -> None:
        config = provider["config"].value
        if not isinstance(config.get("refresh-token"), str):
            raise ConfigException("its id-token has expired, and there is no refresh-token")
        requestor = _Requestor(config, build_context(self.issuer))
        answer = await requestor.refresh_token(config["refresh-token"])
        config["id-token"] = answer["id_token"]
        config["refresh-token"] = answer.get("refresh_token") or config["refresh-token"]


class AuthProvider:
    """An identity provider that a kubeconfig names, asked by the library."""

    def __init__(self, user: KubeconfigEntry, now: Callable[[], float]) -> None:
        """Ask nothing yet.

        Args:
            user: Has ``auth-provider``, checked before.
            now: Unix time in seconds.

        Raises:
            ConfigError: The issuer's CA can't be decoded.
        """
        self._now = now
        self._configuration = Configuration()
        body = {"auth-provider": copy.deepcopy(user.body["auth-provider"])}
        self._loader = _Loader(
            {
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{"name": "it", "cluster": {"server": ""}}],  # it wants one
                "users": [{"name": "it", "user": body}],
            },
            config_base_path="",
        )
        self._loader.issuer = _issuer(user)

    async def fetch(self) -> Grant:
        """Load everything again, and return the grant.

        Raises:
            ConfigError: The CA of the issuer can't be used.
            Unavailable: It grants nothing now.
        """
        try:
            await self._loader.load_and_set(self._configuration)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - it lets anything through
            # Other messages than those may quote what was given.
            is_known = isinstance(error, ConfigException)
            why = str(error) if is_known else f"failed ({type(error).__name__})"
            raise Unavailable(why, kind=Reason.AUTH) from None
        token = self._configuration.api_key.get("BearerToken")
        return Grant(token, self._now() + _POLL_S)


def _issuer(user: KubeconfigEntry) -> TlsFiles:
    """The CA of an OIDC issuer; the system's CAs where none is named.

    Raises:
        ConfigError: Its data can't be decoded.
    """
    config = user.body["auth-provider"].get("config") or {}
    data, file = (
        config.get(f"idp-certificate-authority{suffix}") or None for suffix in ("-data", "")
    )
    origin = Origin(user.file, f"{user.key}.auth-provider.config.idp-certificate-authority")
    try:
        decoded = base64.b64decode(data) if data else None
    except (TypeError, ValueError) as error:
        raise ConfigError(Problem(origin.where, f"{origin.key}-data", "not base64")) from error
    return TlsFiles(file, ca_origin=origin, ca_data=decoded, like_client_go=True)
