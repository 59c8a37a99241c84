"""kubernetes_asyncio's loaders, with what they lack: a deadline, both pipes drained, refresh.

The only module that imports kubernetes_asyncio, which takes its time even without its models:
import this one when a connection is made, not before.
"""

import base64
import errno
import json
import logging
import os
import ssl
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio

from telemetryd.errors import ConfigError, Problem, Reason, Unavailable
from telemetryd.kube.credentials import Grant, clean_token
from telemetryd.kube.kubeconfig import Chosen
from telemetryd.kube.slim import slim_library
from telemetryd.kube.tls import Origin, TlsFiles, load_pair

with slim_library():
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import ConfigException
    from kubernetes_asyncio.config.dateutil import parse_rfc3339
    from kubernetes_asyncio.config.exec_provider import ExecProvider
    from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
    from kubernetes_asyncio.config.kube_config import KubeConfigLoader

_POLL_S = 300.0
"""An identity provider's token is looked at this often; it is renewed within five minutes of its
end, which the loader knows and we don't."""


_TRANSIENT_ERRNOS = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}
"""Why a plugin can't be started now, but may be later."""


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


class _NoPluginError(Exception):
    """A plugin that can't be run at all; the message says why."""


class _Plugin(ExecProvider):
    """An exec plugin whose pipes are both drained and which doesn't outlive its deadline."""

    async def run(self, previous_response: str | None = None) -> dict[str, Any]:
        """The status of the ExecCredential it prints.

        Raises:
            ConfigException: It failed; the message holds nothing that it printed.
            _NoPluginError: It can't be run.
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
            why = f"can't be run ({error.strerror})"
            if error.errno in _TRANSIENT_ERRNOS:
                raise ConfigException(why) from error
            raise _NoPluginError(f"the plugin {self.args[0]} {why}") from error
        except ValueError as error:
            raise _NoPluginError("no plugin can have such a name or argument") from error
        if done.returncode != 0:
            raise ConfigException(
                f"it ended with status {done.returncode}, run it by hand to see why"
            )
        try:
            credential = json.loads(done.stdout)
            status = credential["status"]
            version = credential["apiVersion"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigException("it printed no ExecCredential") from None
        if version != self.api_version or not isinstance(status, dict):
            raise ConfigException(f"it printed no ExecCredential of {self.api_version}")
        return status


class _Loader(KubeConfigLoader):
    """The library's loader with our plugin runner in place of its own."""

    expires_at: float | None = None
    _granted: "tuple[_PrivateFile, _PrivateFile] | None" = None
    cert_file: str | None
    key_file: str | None

    def load_cluster(self, configuration: Configuration) -> None:
        """Take over all that is to be had without asking anyone."""
        self._load_cluster_info()
        self._set_config(configuration)

    async def load_from_exec_plugin(self) -> bool:
        """Run the plugin and take over what it grants, a certificate included.

        Raises:
            ConfigException: It grants nothing that can be used.
            _NoPluginError: It can't be run.
        """
        if self._user is None:
            raise ConfigException("no user")
        status = await _Plugin(self._user["exec"]).run()
        token, certificate = status.get("token"), status.get("clientCertificateData")
        if not isinstance(token, str) and not isinstance(certificate, str):
            raise ConfigException("it grants neither a token nor a certificate")
        clean = clean_token(token.encode(errors="replace")) if isinstance(token, str) else ""
        if clean is None:
            raise ConfigException("what it grants isn't a token")
        expires = status.get("expirationTimestamp")
        expires_at = parse_rfc3339(expires).timestamp() if expires else None
        if isinstance(certificate, str):
            granted = _granted_pair(status)
            self.cert_file, self.key_file = (file.path for file in granted)
            self._granted = granted  # those before are removed with this
        if clean:
            self.token = f"Bearer {clean}"
        self.expires_at = expires_at
        return True


class _PrivateFile:
    """A file that only this user may read; removed with this object, or at the process's end."""

    def __init__(self, content: bytes) -> None:
        """Write it; blocks.

        Raises:
            OSError: It can't be written.
        """
        opened, self.path = tempfile.mkstemp(prefix="telemetryd-", suffix=".pem")  # mode 0600
        weakref.finalize(self, _remove, self.path)
        with os.fdopen(opened, "wb") as file:
            file.write(content)


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - a path is only a name here


def _granted_pair(status: dict[str, Any]) -> tuple[_PrivateFile, _PrivateFile]:
    """Files of the certificate and the key that a plugin grants.

    Raises:
        ConfigException: They can't be used.
    """
    certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
    if not isinstance(certificate, str) or not isinstance(key, str):
        raise ConfigException("it grants a certificate without its key")
    try:
        pair = _PrivateFile(certificate.encode()), _PrivateFile(key.encode())
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pair[0].path, pair[1].path)
    except (OSError, ValueError) as error:
        raise ConfigException("the certificate and key that it grants can't be used") from error
    return pair


_DATA_KEYS = (
    ("clusters", "cluster", "certificate-authority"),
    ("users", "user", "client-certificate"),
    ("users", "user", "client-key"),
)


def _as_files(kubeconfig: dict[str, Any]) -> list[_PrivateFile]:
    """Put what the kubeconfig holds as data into files: the library would never remove its own.

    Raises:
        OSError: A file can't be written.
        ValueError: It isn't base64.
    """
    files = []
    for kind, singular, key in _DATA_KEYS:
        for entry in kubeconfig[kind]:
            data = entry[singular].pop(f"{key}-data", None)
            if data:
                files.append(file := _PrivateFile(base64.b64decode(data)))
                entry[singular][key] = file.path
    return files


def _text(value: str | None) -> str:
    return value or ""


class KubeconfigConnection:
    """What the library's loader makes of one context, and makes of it again when asked."""

    def __init__(self, chosen: Chosen, now: Callable[[], float]) -> None:
        """Load all but the credential.

        Args:
            chosen: The context.
            now: Unix time in seconds.

        Raises:
            ConfigError: It can't be used.
        """
        self._chosen = chosen
        self._now = now
        self._configuration = Configuration()
        kubeconfig = chosen.as_kubeconfig()
        try:
            self._files = _as_files(kubeconfig)
            self._loader = _Loader(kubeconfig, config_base_path="")
            self._loader.load_cluster(self._configuration)
        except Exception as error:  # noqa: BLE001 - it lets anything through
            # Its messages may quote what it was given.
            why = f"kubernetes_asyncio can't use it ({type(error).__name__})"
            raise ConfigError(chosen.user.problem("", why)) from None

    @property
    def server(self) -> str:
        """URL of the API server, without a slash at its end."""
        return _text(self._configuration.host)

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
            Origin(chosen.cluster.file, f"{chosen.cluster.key}.insecure-skip-tls-verify"),
        )

    @property
    def provider(self) -> str:
        """Who is asked for the credential, empty where it stands in the kubeconfig."""
        body = self._chosen.user.body
        if "auth-provider" in body:
            return f"auth-provider {body['auth-provider']['name']}"
        return f"exec plugin {body['exec']['command']}" if "exec" in body else ""

    async def fetch(self, _refused: bool) -> Grant:  # noqa: FBT001 - the shape of a callback
        """Load everything again, and what it grants.

        Raises:
            ConfigError: It can't be had until the configuration is mended.
            Unavailable: It can't be had now.
        """
        user = self._chosen.user
        try:
            await self._loader.load_and_set(self._configuration)
        except _NoPluginError as error:
            raise ConfigError(user.problem("exec.command", str(error))) from error
        except Exception as error:  # noqa: BLE001 - it lets anything through
            # Other messages than those may quote what was given.
            is_known = isinstance(error, ConfigException)
            why = str(error) if is_known else f"failed ({type(error).__name__})"
            if self.provider:
                raise Unavailable(why, kind=Reason.AUTH) from None
            raise ConfigError(user.problem("", why)) from None
        expires_at = self._loader.expires_at
        if "auth-provider" in user.body:
            expires_at = self._now() + _POLL_S
        return Grant(self._configuration.api_key.get("BearerToken"), expires_at)
