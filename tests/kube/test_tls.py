"""The API server's certificate is trusted exactly where client-go trusts it."""

import base64
import datetime as dt
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from telemetryd.errors import ConfigError, Unavailable
from telemetryd.kube.pem import certificates_in
from telemetryd.kube.tls import Origin, TlsFiles, build_context
from tests.informer.scripted import answer, kubeconfig, serve
from tests.kube.test_connection import connected, failure, get
from tests.support.certificates import Authority, server_side

pytestmark = pytest.mark.anyio

OK = answer({"kind": "Thing"})
SOON = dt.datetime.now(dt.UTC) + dt.timedelta(days=9)


def name_of(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Signer:
    """Signs certificates that have no more extensions than they are given."""

    def __init__(self, name: str, by: "Signer | None" = None, *, bits: int = 0) -> None:
        self.name = name_of(name)
        self.key: CertificateIssuerPrivateKeyTypes = (
            rsa.generate_private_key(65537, bits)
            if bits
            else ec.generate_private_key(ec.SECP256R1())
        )
        self.by = by or self
        ca = x509.BasicConstraints(ca=True, path_length=None)
        self.cert = self.by.sign(self.name, self.key, ca, critical=True)

    def sign(
        self,
        name: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        extension: x509.ExtensionType | None,
        *,
        critical: bool = False,
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(SOON)
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical=critical)
        made = builder.sign(self.key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def server(self, folder: Path, *names: x509.GeneralName, bits: int = 0) -> ssl.SSLContext:
        """A server with a certificate of these names, which sends no chain."""
        key: CertificateIssuerPrivateKeyTypes = (
            rsa.generate_private_key(65537, bits)
            if bits
            else ec.generate_private_key(ec.SECP256R1())
        )
        extension = x509.SubjectAlternativeName(names) if names else None
        cert = self.sign(name_of("127.0.0.1"), key, extension)
        self.leaf = cert
        (folder / "server.crt").write_bytes(cert)
        (folder / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("@SECLEVEL=0:ALL")
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        return context


LOCAL = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


async def verdict(folder: Path, tls: ssl.SSLContext, ca: bytes, **cluster: str) -> str:
    """Why the server isn't trusted, empty where it is."""
    async with serve(tls=tls) as server:
        server.others["/x"] = OK
        body = {"certificate-authority-data": base64.b64encode(ca).decode(), **cluster}
        async with connected(kubeconfig(folder / "config", server.url, cluster=body)) as client:
            try:
                await get(client)
            except Unavailable as error:
                return str(error)
    return ""


async def test_intermediate_is_trusted_without_its_root(tmp_path: Path) -> None:
    intermediate = Signer("intermediate", Signer("root"))
    tls = intermediate.server(tmp_path, LOCAL)
    assert await verdict(tmp_path, tls, intermediate.cert) == ""
    assert await verdict(tmp_path, tls, intermediate.leaf) == "", "the server's own"
    assert "the server's certificate" in await verdict(tmp_path, tls, Signer("root").cert)


async def test_old_ca_without_key_identifiers_is_trusted(tmp_path: Path) -> None:
    signer = Signer("old")
    tls = signer.server(tmp_path, LOCAL)
    assert await verdict(tmp_path, tls, signer.cert) == ""
    context = build_context(trusting(signer.cert))
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT, "on by default from Python 3.13 on"


def trusting(ca: bytes) -> TlsFiles:
    origin = Origin("here")
    return TlsFiles(
        None,
        None,
        None,
        True,
        origin,
        origin,
        ca_data=ca,
        like_client_go=True,
    )


async def test_rsa_of_1024_bits_is_trusted_as_go_does(tmp_path: Path) -> None:
    signer = Signer("old", bits=1024)
    tls = signer.server(tmp_path, LOCAL, bits=1024)
    assert await verdict(tmp_path, tls, signer.cert) == ""


async def test_common_name_is_no_name_of_the_server(tmp_path: Path) -> None:
    signer = Signer("ca")
    tls = signer.server(tmp_path)
    assert "the server's certificate" in await verdict(tmp_path, tls, signer.cert)


@pytest.mark.parametrize(
    "name", ["kubernetes", "kubernetes.", "127.0.0.7", "[::7]", "::ffff:127.0.0.7"]
)
async def test_name_of_the_kubeconfig_is_checked_without_its_dot(tmp_path: Path, name: str) -> None:
    signer = Signer("ca")
    seven = x509.IPAddress(ipaddress.ip_address("127.0.0.7"))
    six = x509.IPAddress(ipaddress.ip_address("::7"))
    tls = signer.server(tmp_path, x509.DNSName("kubernetes"), seven, six)
    assert await verdict(tmp_path, tls, signer.cert, **{"tls-server-name": name}) == ""
    assert "mismatch" in await verdict(tmp_path, tls, signer.cert)


BUNDLES: dict[str, Callable[[bytes], bytes]] = {
    "alone": lambda pem: pem,
    "twice": lambda pem: pem + pem,
    "after text": lambda pem: "# größer\nSubject: CN=ca\n".encode() + pem + b"the end",
    "after half of one": lambda pem: b"".join(pem.splitlines(keepends=True)[:4]) + pem,
    "after one that is none": lambda pem: block(b"AAAA") + pem,
    "after an empty one": lambda pem: block(b"") + pem,
    "after one that isn't base64": lambda pem: block(b"?") + pem,
    "after a key": lambda pem: block(b"AAAA", b"PRIVATE KEY") + pem,
    "with carriage returns": lambda pem: pem.replace(b"\n", b"\r\n"),
    "without a last newline": lambda pem: pem.rstrip(),
}


def block(body: bytes, label: bytes = b"CERTIFICATE") -> bytes:
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, body, label)


@pytest.mark.parametrize("bundle", BUNDLES)
async def test_bundle_counts_by_each_certificate_that_can_be_read(
    tmp_path: Path, bundle: str
) -> None:
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server"))
    ca = BUNDLES[bundle](authority.ca.read_bytes())
    assert await verdict(tmp_path, tls, ca) == ""


@pytest.mark.parametrize(
    "ca",
    [
        b"SENTINEL",
        block(b"AAAA"),
        block(b"", b"CERTIFICATE"),
        block(b"AAAA", b"TRUSTED CERTIFICATE"),
        b"x" + block(b"AAAA"),
    ],
)
def test_bundle_without_a_certificate_is_refused(ca: bytes) -> None:
    with pytest.raises(ConfigError, match="CA can't be loaded"):
        build_context(trusting(ca))


def test_certificate_of_another_label_or_with_headers_does_not_count(tmp_path: Path) -> None:
    pem = Authority(tmp_path).ca.read_bytes()
    (der,) = certificates_in(pem)
    assert ssl.PEM_cert_to_DER_cert(pem.decode()) == der
    assert certificates_in(pem.replace(b"CERTIFICATE", b"X509 CERTIFICATE")) == []
    assert certificates_in(pem.replace(b"-----\n", b"-----\nProc-Type: 4\n\n", 1)) == []
    assert certificates_in(b" " + pem) == []


async def test_encrypted_key_is_refused_without_asking(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("client")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"SENTINEL"),
        )
    )
    user = {"client-certificate": pair.cert.name, "client-key": pair.key.name}
    config = kubeconfig(tmp_path / "config", "https://127.0.0.1:1", user=user)
    with pytest.raises(ConfigError, match="not encrypted"):
        async with connected(config):
            pass


async def test_server_that_is_not_trusted_stays_so(tmp_path: Path) -> None:
    tls = server_side(Authority(tmp_path, "other").issue("server"))
    ca = base64.b64encode(Authority(tmp_path).ca.read_bytes()).decode()
    async with serve(tls=tls) as server:
        cluster = {"certificate-authority-data": ca}
        async with connected(
            kubeconfig(tmp_path / "config", server.url, cluster=cluster)
        ) as client:
            assert isinstance(await failure(client), Unavailable)
