"""A certificate authority of the tests' own, and certificates of any kind."""

import datetime as dt
import gc
import ipaddress
import ssl
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Signed:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, form: str = "PKCS8", password: bytes = b"") -> bytes:
        kinds = serialization.PrivateFormat
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            kinds.PKCS8 if form == "PKCS8" else kinds.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(password)
            if password
            else serialization.NoEncryption(),
        )


def sign(
    name: str,
    issuer: Signed | None = None,
    *,
    ca: bool | None = False,
    names: Sequence[str] = (),
    days: tuple[float, float] = (-20, 20),
    identifiers: bool = True,
    usage: bool = True,
    purposes: Sequence[x509.ObjectIdentifier] = (),
    key: Key | None = None,
    path_length: int | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Signed:
    """A certificate; without an issuer it signs itself, with ``ca=None`` it doesn't say which."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .public_key(key.public_key())
    )
    signer = issuer.key if issuer else key
    extensions: list[tuple[x509.ExtensionType, bool]] = [*more]
    if ca is not None:
        extensions.append((x509.BasicConstraints(ca=ca, path_length=path_length), True))
    if usage:
        extensions.append((key_usage(signs=bool(ca)), True))
    if identifiers:
        extensions += [
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        ]
    if names:
        extensions.append((x509.SubjectAlternativeName([_name(n) for n in names]), False))
    if purposes:
        extensions.append((x509.ExtendedKeyUsage(list(purposes)), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Signed(builder.sign(signer, hashes.SHA256()), key)


def _name(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    if kind == "IP":
        return x509.IPAddress(ipaddress.ip_address(value))
    return x509.UniformResourceIdentifier(value) if kind == "URI" else x509.DNSName(value)


def key_usage(*, signs: bool) -> x509.KeyUsage:
    """Of one that signs certificates, or of one that doesn't."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates for 127.0.0.1; ``ca`` is its own, as a file."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._own = sign(name, ca=True, days=(-20, 10))
        self.ca = folder / f"{name}.crt"
        self.ca.write_bytes(self._own.pem)

    def issue(
        self,
        name: str,
        *,
        address: str = "127.0.0.1",
        days: int = 10,
        purposes: Sequence[x509.ObjectIdentifier] = (),
        also: Sequence[str] = (),
    ) -> Pair:
        """A certificate for an address and others; one with negative days has expired."""
        names = [f"IP:{each}" for each in (address, *also)]
        signed = sign(name, self._own, names=names, days=(-20, days), purposes=purposes)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.cert.write_bytes(signed.pem)
        pair.key.write_bytes(signed.key_pem())
        return pair


def server_side(pair: Pair, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """A server's context; with a CA it wants a certificate of its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Contexts:
    """The TLS contexts that are constructed in this process from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built = 0
        self._alive: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
        construct = ssl.SSLContext.__new__

        def count(cls: type[ssl.SSLContext], *arguments: Any) -> ssl.SSLContext:
            self.built += 1
            context = construct(cls, *arguments)
            self._alive.add(context)
            return context

        monkeypatch.setattr(ssl.SSLContext, "__new__", staticmethod(count))

    def alive(self) -> int:
        """How many of them are still in use."""
        gc.collect()
        return len(self._alive)
