"""Which API server, as whom, and how it is trusted: from the configuration and the environment.

In a pod its service account; else the kubeconfig. HTTP doesn't belong here.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

from telemetryd.errors import ConfigError, Problem, Reason, Unavailable
from telemetryd.kube.credentials import (
    Credential,
    FixedCredential,
    RenewedCredential,
    TokenFile,
    clean_token,
)
from telemetryd.kube.entries import what_is_wrong_with_server
from telemetryd.kube.files import read_small_file, why_unreadable
from telemetryd.kube.kubeconfig import Chosen, choose, fingerprint
from telemetryd.kube.proxy import proxy_for
from telemetryd.kube.rechosen import Login, RechosenCredential
from telemetryd.kube.tls import Origin, TlsContext, TlsFiles, build_context
from telemetryd.sharedread import SharedRead

if TYPE_CHECKING:
    from types import ModuleType

    from telemetryd.config.settings import KubernetesConfig

T = TypeVar("T")

READ_TIMEOUT_S = 10.0
"""For each file at the start, where there is no last good content yet."""

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
        counts = partial(_counts, service_account, environ)
        if in_pod and await _read(counts, f"{service_account} or the kubeconfig") is True:
            return await _in_cluster(environ, service_account, now)
    return await _by_kubeconfig(lambda: _paths(config, environ), config.context, now, environ)


def _counts(service_account: str, environ: Mapping[str, str]) -> bool:
    """Whether a pod's service account counts rather than a kubeconfig; blocks."""
    return _may_exist(f"{service_account}/token") or not _found(environ)


def _found(environ: Mapping[str, str]) -> list[str]:
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    default = f"{environ.get('HOME') or '~'}/.kube/config"
    # Path.expanduser raises where there is no such user; a name that stays as it is isn't found.
    paths = [os.path.expanduser(part) for part in named or [default]]  # noqa: PTH111
    return [path for path in paths if _may_exist(path)]


def _may_exist(path: str) -> bool:
    """Whether something is there, or what stands in the way is left for reading it to tell."""
    try:
        os.stat(path)  # noqa: PTH116 - a path is only a name here
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _paths(config: "KubernetesConfig", environ: Mapping[str, str]) -> list[str]:
    """The kubeconfigs that count; blocks.

    Raises:
        ConfigError: There are none.
    """
    if config.kubeconfig is not None:
        return [os.path.expanduser(config.kubeconfig)]  # noqa: PTH111 - as above
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


def _import_loader() -> "ModuleType":
    """The loader, which is slow to import.

    Raises:
        ConfigError: The library it stands on doesn't import.
    """
    try:
        from telemetryd.kube import loader  # noqa: PLC0415 - slow to import
    except RuntimeError as error:
        # kubernetes_asyncio wants to know the home folder as soon as it is imported.
        why = "is not set, and this user has no home folder: set it, to any folder"
        raise ConfigError(Problem("$HOME", "", why)) from error
    loader.quieten()
    return loader


async def _in_cluster(
    environ: Mapping[str, str], folder: str, now: Callable[[], float]
) -> Connection:
    token_file, ca_file = f"{folder}/token", f"{folder}/ca.crt"
    try:
        token = clean_token(await _read(partial(read_small_file, token_file), token_file))
    except (OSError, ValueError) as error:
        why = f"can't be read ({why_unreadable(error)}): mount a service account"
        raise ConfigError(Problem(token_file, "", why)) from error
    if token is None:
        raise ConfigError(Problem(token_file, "", "holds no token: mount a service account"))
    loader = _import_loader()
    origin = Origin(ca_file)
    files = TlsFiles(ca_file, None, None, verify=True, ca_origin=origin, cert_origin=origin)
    tls = TlsContext(lambda: files, now)
    await _load(tls, ca_file)
    server: str = loader.load_in_cluster(dict(environ), token_file, ca_file)
    why_not = what_is_wrong_with_server(server)
    if why_not is not None:
        where = "$KUBERNETES_SERVICE_HOST, $KUBERNETES_SERVICE_PORT"
        raise ConfigError(Problem(where, "", f"their URL {why_not}"))
    return Connection(server, TokenFile(token_file, token), tls, None, proxy_for(server, environ))


async def _by_kubeconfig(
    find: Callable[[], list[str]],
    context: str | None,
    now: Callable[[], float],
    environ: Mapping[str, str],
) -> Connection:
    def take_fingerprint() -> bytes:
        try:
            return fingerprint(find())
        except ConfigError:
            return b"none"

    async def choose_again() -> Login:
        other, again = await _choose(await _read(find, "kubeconfig"), context, now)
        if again.server != login.server:
            why = "names another API server: restart telemetryd to use it"
            raise ConfigError(other.cluster.problem("server", why))
        if _is_tls(again.server):
            files = again.files()  # or it can't be used
            await _read(partial(build_context, files), f"{files.ca_origin.where}: CA")
        return again

    seen = await _read(take_fingerprint, "kubeconfig")
    chosen, login = await _choose(await _read(find, "kubeconfig"), context, now)
    credential = RechosenCredential(login, seen, fingerprint=take_fingerprint, choose=choose_again)
    tls = None
    if _is_tls(login.server):
        tls = TlsContext(credential.files, now)
        await _load(tls, chosen.cluster.file)
    cluster = chosen.cluster.body
    proxy = cluster.get("proxy-url") or proxy_for(login.server, environ)
    return Connection(login.server, credential, tls, cluster.get("tls-server-name"), proxy)


async def _read(read: Callable[[], T], what: str) -> T:
    """What is read, off the event loop.

    Raises:
        Unavailable: Not in time.
    """
    with _deadline(what):
        return await SharedRead[T]("connection").take(read)


async def _load(tls: TlsContext, where: str) -> None:
    """Build the first context.

    Raises:
        ConfigError: It can't be built.
        Unavailable: Not in time.
    """
    with _deadline(f"{where}: CA or client certificate"):
        await tls.load()


@contextmanager
def _deadline(what: str) -> Iterator[None]:
    """What is read here must come within ``READ_TIMEOUT_S``.

    Raises:
        Unavailable: It doesn't.
    """
    try:
        with anyio.fail_after(READ_TIMEOUT_S):
            yield
    except TimeoutError as error:
        message = f"{what} can't be read within {READ_TIMEOUT_S:g} s: check its disk or file server"
        raise Unavailable(message, kind=Reason.TIMEOUT) from error


def _is_tls(server: str) -> bool:
    return server.startswith("https:")


async def _choose(
    paths: list[str], context: str | None, now: Callable[[], float]
) -> tuple[Chosen, Login]:
    """What the kubeconfigs say.

    Raises:
        ConfigError: It can't be used.
    """
    chosen = await _read(partial(choose, paths, context), "kubeconfig")
    loaded = _import_loader().KubeconfigConnection(chosen, now)
    user = chosen.user.body
    credential: Credential
    if loaded.provider:
        credential = await RenewedCredential.obtain(loaded.fetch, now, loaded.provider)
    elif "tokenFile" in user:
        credential = await _token_file(chosen)
    else:
        grant = await loaded.fetch(False)
        credential = FixedCredential(grant.header)
    return chosen, Login(loaded.server, chosen.user.file, credential, loaded.files)


async def _token_file(chosen: Chosen) -> TokenFile:
    """A credential of ``tokenFile``, which goes before ``token``.

    Raises:
        ConfigError: It holds none.
    """
    path = chosen.user.body["tokenFile"]
    try:
        token = clean_token(await _read(partial(read_small_file, path), path))
    except (OSError, ValueError) as error:
        why = f"can't be read ({why_unreadable(error)})"
        raise ConfigError(chosen.user.problem("tokenFile", why)) from error
    if token is None:
        raise ConfigError(chosen.user.problem("tokenFile", "holds no token"))
    return TokenFile(path, token)
