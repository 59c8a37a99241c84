"""Makes the login: API server, user and trust, from the configuration and the environment.

The kubeconfig that the configuration or ``$KUBECONFIG`` names; else, in a pod, its service account;
else ``~/.kube/config``.
"""

import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio

from telemetryd.errors import ConfigError, Problem, Reason, Unavailable
from telemetryd.kube.address import address_of, host_header, proxy_for, server_name
from telemetryd.kube.credentials import Credential, Grant, RenewedCredential, TokenFile, clean_token
from telemetryd.kube.entries import KubeconfigEntry, impersonation, what_is_wrong_with_server
from telemetryd.kube.files import read_small_file, show_path, why_unreadable
from telemetryd.kube.kubeconfig import (
    Chosen,
    choose,
    fingerprint,
    found_files,
    may_exist,
    named_files,
    says_nothing,
)
from telemetryd.kube.login import CurrentLogin, KubeconfigWatch, Login
from telemetryd.kube.tls import Origin, TlsContext, TlsFiles
from telemetryd.sharedread import SharedRead

if TYPE_CHECKING:
    from types import ModuleType

    from telemetryd.config.settings import KubernetesConfig

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_TIMEOUT_S = 10.0
"""For each file at the start, where there is no last good content yet."""

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""The folder where Kubernetes mounts a pod's token and CA."""


async def resolve(
    config: "KubernetesConfig",
    *,
    now: Callable[[], float],
    environ: Mapping[str, str],
    service_account: str = SERVICE_ACCOUNT,
) -> CurrentLogin:
    """The login, checked as far as possible without connecting.

    Raises:
        ConfigError: Each problem with file, key and fix.
    """
    why_pod = await _why_in_cluster(config, environ, service_account)
    if why_pod:
        current = await _in_cluster(environ, service_account, now)
        why = why_pod
    else:
        why = _why_kubeconfig(config, environ)
        current = await _by_kubeconfig(
            lambda: named_files(config.kubeconfig, environ), config.context, now, environ
        )
    login = current.login
    log.info(
        "login chosen file=%s context=%s server=%s acts_as=%s why=%s",
        login.where,
        login.context_name,
        login.server,
        dict(login.headers).get("Impersonate-User", ""),
        why,
    )
    return current


async def _why_in_cluster(
    config: "KubernetesConfig", environ: Mapping[str, str], service_account: str
) -> str:
    """Why the pod's service account is used, empty where a kubeconfig is, as kubectl decides."""
    in_pod = environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT")
    if not in_pod or config.kubeconfig is not None or config.context is not None:
        return ""
    found = await _read(partial(found_files, environ), "kubeconfig")
    if not environ.get("KUBECONFIG"):
        token = f"{service_account}/token"
        if found and not await _read(partial(may_exist, token), token):
            return ""
        return "this is a pod, and no kubeconfig is named"
    if found and not await _read(partial(says_nothing, found), "kubeconfig"):
        return ""
    log.warning("$KUBECONFIG names no file with content, the pod's service account is used")
    return "this is a pod, and $KUBECONFIG names no file with content"


def _why_kubeconfig(config: "KubernetesConfig", environ: Mapping[str, str]) -> str:
    if config.kubeconfig is not None:
        return "kubernetes.kubeconfig is set"
    return "$KUBECONFIG is set" if environ.get("KUBECONFIG") else "it is the default"


def _import_loader() -> "ModuleType":
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
) -> CurrentLogin:
    token_file, ca_file = f"{folder}/token", f"{folder}/ca.crt"
    try:
        token = clean_token(await _read(partial(read_small_file, token_file), token_file))
    except (OSError, ValueError) as error:
        why = f"can't be read ({why_unreadable(error)}): mount a service account"
        raise ConfigError(Problem(token_file, "", why)) from error
    if token is None:
        raise ConfigError(Problem(token_file, "", "holds no token: mount a service account"))
    loader = _import_loader()
    files = TlsFiles(ca_file, ca_origin=Origin(ca_file), like_client_go=True)
    tls = TlsContext(lambda: files, now)
    await _load(tls, ca_file)
    server: str = loader.load_in_cluster(dict(environ), token_file, ca_file)
    why_not = what_is_wrong_with_server(server)
    if why_not is not None:
        where = "$KUBERNETES_SERVICE_HOST, $KUBERNETES_SERVICE_PORT"
        raise ConfigError(Problem(where, "", f"their URL {why_not}"))
    credential, proxy = TokenFile(token_file, token), address_of(proxy_for(server, environ))
    return CurrentLogin(Login(server, token_file, credential, tls, proxy=proxy))


async def _by_kubeconfig(
    find: Callable[[], list[str]],
    context: str | None,
    now: Callable[[], float],
    environ: Mapping[str, str],
) -> CurrentLogin:
    def take_fingerprint() -> bytes:
        try:
            return fingerprint(find())
        except ConfigError:
            return b"none"

    def find_and_choose() -> Chosen:
        return choose(find(), context)

    seen = await _read(take_fingerprint, "kubeconfig")
    chosen = await _read(find_and_choose, "kubeconfig")

    async def log_in_again() -> Login | None:
        nonlocal chosen
        again = await _read(find_and_choose, "kubeconfig")
        if again == chosen:
            return None
        if _server(again) != _server(chosen):
            why = "names another API server: restart telemetryd to use it"
            raise ConfigError(again.cluster.problem("server", why))
        login = await _log_in(again, now, environ)
        if login.credential.problem:
            login.credential.close()
            raise Unavailable(login.credential.problem, kind=Reason.AUTH)
        chosen = again
        return login

    login = await _log_in(chosen, now, environ)
    watch = KubeconfigWatch(seen, take_fingerprint, log_in_again)
    return CurrentLogin(login, watch)


async def _read(read: Callable[[], T], what: str) -> T:
    with _deadline(what):
        return await SharedRead[T]("connection").take(read)


async def _load(tls: TlsContext, where: str) -> None:
    with _deadline(f"{where}: CA or client certificate"):
        await tls.load()


@contextmanager
def _deadline(what: str) -> Iterator[None]:
    try:
        with anyio.fail_after(READ_TIMEOUT_S):
            yield
    except TimeoutError as error:
        message = f"{what} can't be read within {READ_TIMEOUT_S:g} s: check its disk or file server"
        raise Unavailable(message, kind=Reason.TIMEOUT) from error


def _server(chosen: Chosen) -> str:
    """The URL; an IPv6 zone in it is as sockets take it, without escapes."""
    server: str = chosen.cluster.body["server"]
    return server.replace("%25", "%", 1) if "://[" in server else server


async def _log_in(chosen: Chosen, now: Callable[[], float], environ: Mapping[str, str]) -> Login:
    """The login of a context: its plugin has run, its certificates are loaded.

    Raises:
        ConfigError: It can't be used.
        Unavailable: A disk hangs.
    """
    server, cluster = _server(chosen), chosen.cluster.body
    proxy = address_of(cluster.get("proxy-url") or proxy_for(server, environ))
    credential = await _credential(chosen, now)
    try:
        tls = None
        if server.startswith("https:"):
            tls = TlsContext(partial(_tls_files, chosen, credential), now)
            await _load(tls, chosen.cluster.file)
    except BaseException:
        credential.close()
        raise
    verify = not cluster.get("insecure-skip-tls-verify", False)
    name = server_name(server, cluster.get("tls-server-name"), verify=verify)
    headers = host_header(server) + impersonation(chosen.user)
    return Login(server, chosen.user.file, credential, tls, name, proxy, headers, chosen.context)


def _tls_files(chosen: Chosen, credential: Credential) -> TlsFiles:
    """The current files and data of the TLS context; a plugin may have granted a certificate."""
    cluster, user = chosen.cluster, chosen.user
    cert, key = credential.pair or (
        _decoded(user, "client-certificate"),
        _decoded(user, "client-key"),
    )
    return TlsFiles(
        cluster.body.get("certificate-authority"),
        user.body.get("client-certificate"),
        user.body.get("client-key"),
        not cluster.body.get("insecure-skip-tls-verify", False),
        Origin(cluster.file, f"{cluster.key}.certificate-authority"),
        Origin(user.file, f"{user.key}.client-certificate"),
        Origin(cluster.file, f"{cluster.key}.insecure-skip-tls-verify"),
        ca_data=_decoded(cluster, "certificate-authority"),
        cert_data=cert,
        key_data=key,
        like_client_go=True,
    )


def _decoded(entry: KubeconfigEntry, key: str) -> bytes | None:
    data = entry.body.get(f"{key}-data")
    return base64.b64decode(data) if data else None


async def _credential(chosen: Chosen, now: Callable[[], float]) -> Credential:
    """The credential; one in the kubeconfig itself goes first."""
    user = chosen.user.body
    if "tokenFile" in user:
        return await _token_file(chosen)
    if "token" in user:
        return Credential(f"Bearer {user['token']}")
    if "username" in user:
        name_and_password = f"{user['username']}:{user['password']}".encode()
        return Credential(f"Basic {base64.b64encode(name_and_password).decode()}")
    if "exec" in user and not _has_certificate(user):
        return await _plugin(chosen, now)
    if "auth-provider" in user:
        provider = _import_loader().AuthProvider(chosen.user, now)
        who = f"auth-provider {user['auth-provider']['name']}"
        credential = RenewedCredential(provider.fetch, now, who)
        await credential.ask_first()
        return credential
    return Credential(None)


def _has_certificate(user: Mapping[str, object]) -> bool:
    return bool(user.get("client-certificate") or user.get("client-certificate-data"))


async def _plugin(chosen: Chosen, now: Callable[[], float]) -> Credential:
    from telemetryd.kube.execplugin import ExecPlugin  # noqa: PLC0415 - where it is used

    def settle(grant: Grant) -> None:
        credential.take(grant)

    plugin = ExecPlugin(chosen.user, chosen.cluster, settle)
    who = f"exec plugin {chosen.user.body['exec']['command']}"
    credential = RenewedCredential(plugin.fetch, now, who, close=plugin.close)
    try:
        await credential.ask_first()
    except BaseException:
        plugin.close()
        raise
    return credential


async def _token_file(chosen: Chosen) -> TokenFile:
    """A credential of ``tokenFile``, which goes before ``token`` as soon as it can be used.

    Raises:
        ConfigError: It holds none.
    """
    path = chosen.user.body["tokenFile"]
    spare: str | None = chosen.user.body.get("token")
    why, shown = "holds no token", path
    try:
        token = clean_token(await _read(partial(read_small_file, path), path))
    except (OSError, ValueError) as error:
        token, shown = None, show_path(path, error)
        why = f"can't be read ({why_unreadable(error)})"
    if token is None and spare is None:
        raise ConfigError(chosen.user.problem("tokenFile", why))
    if token is None:
        log.warning(
            "token file can't be used, using the token beside it file=%s reason=%r", shown, why
        )
    return TokenFile(path, token or spare or "")
