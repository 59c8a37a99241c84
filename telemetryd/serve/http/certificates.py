"""Loads PEM files into an SSL context: the server's certificate, and its clients' authorities."""

import ssl
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from telemetryd.config import ServerConfig
from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.files import PEM_BYTES, read_small_file, show_path, why_unreadable
from telemetryd.kube.pem import Validity, read_validity
from telemetryd.kube.tls import load_pair, why_unloadable

_CERT: Final = "server.tls_cert_file"
_KEY: Final = "server.tls_key_file"
_CLIENT_CA: Final = "server.client_ca_file"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of PEM files, named as in ``ServerConfig``."""

    cert_file: str
    key_file: str
    client_ca_file: str | None

    @classmethod
    def of(cls, config: ServerConfig) -> "CertificateFiles | None":
        """The configured files, None for plain HTTP."""
        if config.tls_cert_file is None or config.tls_key_file is None:
            return None
        return cls(config.tls_cert_file, config.tls_key_file, config.client_ca_file)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Loaded files.

    Attributes:
        context: For new connections.
        seen: Digests of the files' content.
        trust: Digest of the clients' authorities, empty where there are none.
        validity: Of the server's certificate, None where it can't be read.
    """

    context: ssl.SSLContext
    seen: tuple[str, ...]
    trust: str
    validity: Validity | None


def digest_files(files: CertificateFiles, where: str) -> tuple[str, ...]:
    """A digest of each file's content, the authorities' last; blocks.

    Args:
        files: What to read.
        where: Configuration file, for messages.

    Raises:
        ConfigError: With each file that can't be read.
    """
    digests, problems = [], []
    for key, path in _by_key(files):
        try:
            digests.append(sha256(read_small_file(path, PEM_BYTES)).hexdigest())
        except (OSError, ValueError) as error:
            message = (
                f"{show_path(path, error)} can't be read ({why_unreadable(error)}): "
                "name a PEM file that is there"
            )
            problems.append(Problem(where, key, message))
    if problems:
        raise ConfigError(*problems)
    return tuple(digests)


def load_certificates(files: CertificateFiles, where: str, now_s: float) -> Certificates:
    """Load the files into a context, TLS 1.2 or newer, for HTTP/1.1; blocks for some milliseconds.

    While a pair is being replaced its key doesn't match, which is an error. A client's certificate
    is optional here and verified if there is one: ``security`` decides where it is needed.

    Args:
        files: What to read.
        where: Configuration file, for messages.
        now_s: Unix time in seconds.

    Raises:
        ConfigError: A file is missing or isn't PEM, the key isn't the certificate's, or the
            certificate has expired.
    """
    seen = digest_files(files, where)  # first: the next check then notices any later change
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        load_pair(context, files.cert_file, files.key_file)
    except (OSError, ValueError) as error:
        message = (
            f"{files.cert_file} and {files.key_file} can't be loaded ({why_unloadable(error)}): "
            "give PEM of a certificate and its own key, not encrypted"
        )
        raise ConfigError(Problem(where, _CERT, message)) from error
    validity = read_validity(files.cert_file)
    if validity is not None and now_s > validity.not_after_s:
        message = f"{files.cert_file} {validity.why_not(now_s)}: renew it"
        raise ConfigError(Problem(where, _CERT, message))
    if files.client_ca_file is not None:
        _ask_clients(context, files.client_ca_file, where)
    trust = seen[-1] if files.client_ca_file is not None else ""
    return Certificates(context, seen, trust, validity)


def _ask_clients(context: ssl.SSLContext, client_ca_file: str, where: str) -> None:
    try:
        context.load_verify_locations(client_ca_file)
    except (OSError, ValueError) as error:
        message = (
            f"{client_ca_file} can't be loaded ({why_unloadable(error)}): "
            "give PEM with at least one certificate"
        )
        raise ConfigError(Problem(where, _CLIENT_CA, message)) from error
    context.verify_mode = ssl.CERT_OPTIONAL
    # A resumed session would have a certificate that isn't verified again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _by_key(files: CertificateFiles) -> tuple[tuple[str, str], ...]:
    pair = ((_CERT, files.cert_file), (_KEY, files.key_file))
    return pair if files.client_ca_file is None else (*pair, (_CLIENT_CA, files.client_ca_file))
