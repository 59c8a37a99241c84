"""Which API server, as whom, and how it is trusted: from the configuration and the environment.

In a pod its service account; else the kubeconfig. HTTP doesn't belong here.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.credentials import (
    Credential,
    FixedCredential,
    RenewedCredential,
    TokenFile,
    clean_token,
    read_small_file,
)
from telemetryd.kube.kubeconfig import choose
from telemetryd.kube.proxy import proxy_for
from telemetryd.kube.tls import Origin, TlsContext, TlsFiles

if TYPE_CHECKING:
    from telemetryd.config.settings import KubernetesConfig

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where Kubernetes mounts a pod's token and CA."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API server.

    Attributes:
        server: URL without a slash at its end and without credentials.
        credential: Who asks.
        tls: None for plain HTTP.
        server_name: Name that the server's certificate must have, None for the URL's.
        proxy: URL of the proxy, which may hold its own credentials; None for none.
    """

    server: str
    credential: Credential
    tls: TlsContext | None
    server_name: str | None
    proxy: str | None

    def __repr__(self) -> str:
        return f"Connection({self.server})"


async def resolve(
    config: "KubernetesConfig",
    *,
    now: Callable[[], float],
    environ: Mapping[str, str],
    service_account: str = SERVICE_ACCOUNT,
) -> Connection:
    """Everything that is needed to connect, checked as far as it can be without connecting.

    Args:
        config: Names a kubeconfig and a context, or neither.
        now: Unix time in seconds, for expiry.
        environ: Environment variables.
        service_account: Folder with a pod's ``token`` and ``ca.crt``.

    Raises:
        ConfigError: Each problem with file, key and mend.
    """
    if config.kubeconfig is None and config.context is None:
        in_pod = environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT")
        if in_pod and (os.path.exists(f"{service_account}/token") or not _found(environ)):  # noqa: PTH110, ASYNC240 - one look
            return await _in_cluster(environ, service_account)
    return await _by_kubeconfig(_paths(config, environ), config.context, now, environ)


def _found(environ: Mapping[str, str]) -> list[str]:
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    default = str(Path(environ.get("HOME") or "~").expanduser() / ".kube" / "config")
    paths = [str(Path(part).expanduser()) for part in named or [default]]
    return [path for path in paths if Path(path).exists()]


def _paths(config: "KubernetesConfig", environ: Mapping[str, str]) -> list[str]:
    if config.kubeconfig is not None:
        return [str(Path(config.kubeconfig).expanduser())]
    found = _found(environ)
    if not found:
        where = "$KUBECONFIG" if environ.get("KUBECONFIG") else "~/.kube/config"
        raise ConfigError(
            Problem(
                where,
                "",
                "no kubeconfig found, and this is no pod with a service account: "
                "set kubernetes.kubeconfig or $KUBECONFIG",
            )
        )
    return found


async def _in_cluster(environ: Mapping[str, str], folder: str) -> Connection:
    from telemetryd.kube import loader  # noqa: PLC0415 - slow to import

    token_file, ca_file = f"{folder}/token", f"{folder}/ca.crt"
    try:
        token = clean_token(await anyio.to_thread.run_sync(read_small_file, token_file))
    except OSError as error:
        raise ConfigError(
            Problem(token_file, "", f"can't be read ({error.strerror}): mount a service account")
        ) from error
    if token is None:
        raise ConfigError(Problem(token_file, "", "holds no token: mount a service account"))
    loader.quieten()
    tls = TlsContext(
        lambda: TlsFiles(
            ca_file,
            None,
            None,
            verify=True,
            ca_origin=Origin(ca_file),
            cert_origin=Origin(ca_file),
        )
    )
    await tls.load()
    server = loader.load_in_cluster(dict(environ), token_file, ca_file)
    return Connection(server, TokenFile(token_file, token), tls, None, proxy_for(server, environ))


async def _by_kubeconfig(
    paths: list[str], context: str | None, now: Callable[[], float], environ: Mapping[str, str]
) -> Connection:
    chosen = await anyio.to_thread.run_sync(choose, paths, context)
    from telemetryd.kube import loader  # noqa: PLC0415 - slow to import

    loader.quieten()
    loaded = loader.KubeconfigConnection(chosen, now)
    grant = await loaded.load()
    user = chosen.user.body
    credential: Credential
    if "exec" in user or "auth-provider" in user:
        credential = RenewedCredential(grant, loaded.fetch, now)
    elif "tokenFile" in user:
        raw = await anyio.to_thread.run_sync(read_small_file, user["tokenFile"])
        token = clean_token(raw) or str(user.get("token", ""))
        credential = TokenFile(user["tokenFile"], token)
    else:
        credential = FixedCredential(grant.header)
    tls = None
    if loaded.server.startswith("https"):
        tls = TlsContext(loaded.files)
        await tls.load()
    proxy = loaded.proxy or proxy_for(loaded.server, environ)
    return Connection(loaded.server, credential, tls, loaded.server_name, proxy)
