"""``[server]``: its keys and the rules between them, as ``settings`` declares the other tables."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from telemetryd.config.paths import ControlSocket, SocketPath
from telemetryd.config.remote import is_loopback
from telemetryd.config.schema import Env, Rule
from telemetryd.config.storage import AbsolutePath
from telemetryd.config.values import Boolean, Listen, ListenAddress

DEFAULT_LISTEN = ListenAddress("127.0.0.1", 10464)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``[server]``: where HTTP is served and to whom, and where commands are taken.

    The files are read anew when they change. ``/livez``, ``/healthz`` and ``/readyz`` are shown to
    everyone; with ``client_ca_file`` and ``kubernetes_auth`` either suffices for the rest.

    Attributes:
        tls_cert_file: PEM of the certificate to show, and of those between it and its authority;
            None for plain HTTP.
        tls_key_file: PEM of its key.
        client_ca_file: PEM of the authorities of which one must have signed a client's certificate;
            None for any client.
        kubernetes_auth: Clients need a bearer token whose user may ``get`` the path, by the API
            server's TokenReview and SubjectAccessReview.
        expose_payload: Show what each exporter last sent.
        control_socket: None where no folder is usable, or none has been looked for.
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
    control_socket: Annotated[ControlSocket | None, SocketPath()] = None
    tls_cert_file: Annotated[str | None, AbsolutePath()] = None
    tls_key_file: Annotated[str | None, AbsolutePath()] = None
    client_ca_file: Annotated[str | None, AbsolutePath()] = None
    kubernetes_auth: Annotated[bool, Boolean()] = False
    expose_payload: Annotated[bool, Boolean()] = False

    @property
    def listen_host(self) -> str:
        """Host or IP address, empty for every address of the machine."""
        return self.listen.host

    @property
    def listen_port(self) -> int:
        """TCP port, 0 for a free one."""
        return self.listen.port
