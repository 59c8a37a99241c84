"""Certificates of every kind a cluster may have, good and bad, made once a session."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificates import Signed, key_usage, sign

USUAL = ("IP:127.0.0.1", "IP:::1", "DNS:localhost", "DNS:api.example.test", "DNS:kubernetes")


def write_all(folder: Path) -> None:
    """Every file that a case names: ``NAME.crt``, ``NAME.key``, and ``NAME.pem`` with both."""
    ca = sign("ca", ca=True)
    made: dict[str, Signed] = {"ca": ca, **_authorities(ca)}
    made |= _servers(ca, made)
    made |= _clients()
    for name, signed in made.items():
        (folder / f"{name}.crt").write_bytes(signed.pem)
        (folder / f"{name}.key").write_bytes(signed.key_pem())
        (folder / f"{name}.pem").write_bytes(signed.pem + signed.key_pem())
    _write_forms(folder, made)


def _authorities(ca: Signed) -> dict[str, Signed]:
    intermediate = sign("intermediate", ca, ca=True)
    oldest = sign("oldca", ca=True, identifiers=False)
    return {
        "other": sign("other", ca=True),
        "sameca": sign("ca", ca=True),
        "intermediate": intermediate,
        "second": sign("second", intermediate, ca=True),
        "oldca": oldest,
        "oldusage": sign("oldusage", ca=True, identifiers=False, usage=False),
        "noconstraints": sign("noconstraints", ca=None, usage=False, identifiers=False),
        "notca": sign("notca", ca=False),
        "expiredca": sign("expiredca", ca=True, days=(-20, -2)),
        "futureca": sign("futureca", ca=True, days=(2, 20)),
        "shortca": sign("shortca", ca=True, path_length=0),
        "constrained": sign(
            "constrained",
            ca=True,
            more=[
                (
                    x509.NameConstraints(
                        permitted_subtrees=[x509.DNSName("example.test")], excluded_subtrees=None
                    ),
                    True,
                )
            ],
        ),
        "excluding": sign(
            "excluding",
            ca=True,
            more=[
                (
                    x509.NameConstraints(
                        permitted_subtrees=None, excluded_subtrees=[x509.DNSName("example.test")]
                    ),
                    True,
                )
            ],
        ),
        "nosign": sign("nosign", ca=True, usage=False, more=[(key_usage(signs=False), True)]),
        "clientsonly": sign("clientsonly", ca=True, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]),
    }


def _servers(ca: Signed, by: dict[str, Signed]) -> dict[str, Signed]:
    rsa_key = rsa.generate_private_key(65537, 2048)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    made = {
        "proxy": sign("proxy", ca, names=["DNS:proxy.test"]),
        "otherproxy": sign("proxy", by["other"], names=["DNS:proxy.test"]),
        "leaf": sign("leaf", ca, names=USUAL),
        "rsa": sign("rsa", ca, names=USUAL, key=rsa_key),
        "byother": sign("byother", by["other"], names=USUAL),
        "bysame": sign("bysame", by["sameca"], names=USUAL),
        "byintermediate": sign("byintermediate", by["intermediate"], names=USUAL),
        "bysecond": sign("bysecond", by["second"], names=USUAL),
        "byold": sign("byold", by["oldca"], names=USUAL, identifiers=False),
        "byoldplain": sign(
            "byoldplain", by["oldca"], names=USUAL, identifiers=False, usage=False, ca=None
        ),
        "byoldusage": sign("byoldusage", by["oldusage"], names=USUAL, identifiers=False),
        "bynoconstraints": sign(
            "bynoconstraints", by["noconstraints"], names=USUAL, identifiers=False
        ),
        "bynotca": sign("bynotca", by["notca"], names=USUAL),
        "byexpiredca": sign("byexpiredca", by["expiredca"], names=USUAL),
        "byfutureca": sign("byfutureca", by["futureca"], names=USUAL),
        "byconstrained": sign("byconstrained", by["constrained"], names=["DNS:api.example.test"]),
        "byexcluding": sign("byexcluding", by["excluding"], names=["DNS:api.example.test"]),
        "bynosign": sign("bynosign", by["nosign"], names=USUAL),
        "byclientsonly": sign("byclientsonly", by["clientsonly"], names=USUAL),
        "self": sign("self", ca=False, names=USUAL),
        "selfca": sign("selfca", ca=True, names=USUAL),
        "selfplain": sign("selfplain", ca=None, names=USUAL, usage=False, identifiers=False),
        "expired": sign("expired", ca, names=USUAL, days=(-20, -1)),
        "selfexpired": sign("selfexpired", names=USUAL, days=(-20, -1)),
        "future": sign("future", ca, names=USUAL, days=(1, 20)),
        "wrongname": sign("wrongname", ca, names=["DNS:other.example.test"]),
        "nosan": sign("api.example.test", ca),
        "ipascn": sign("127.0.0.1", ca),
        "ipasdns": sign("ipasdns", ca, names=["DNS:127.0.0.1"]),
        "wildcard": sign("wildcard", ca, names=["DNS:*.example.test"]),
        "widest": sign("widest", ca, names=["DNS:*.test"]),
        "partial": sign("partial", ca, names=["DNS:a*.example.test"]),
        "uri": sign("uri", ca, names=["URI:https://api.example.test"]),
        "upper": sign("upper", ca, names=["DNS:API.Example.TEST"]),
        "dotted": sign("dotted", ca, names=["DNS:api.example.test."]),
        "zone": sign("zone", ca, names=["IP:fe80::1"]),
        "underscore": sign("underscore", ca, names=["DNS:my_api.example.test"]),
        "forclients": sign(
            "forclients", ca, names=USUAL, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]
        ),
        "forboth": sign(
            "forboth",
            ca,
            names=USUAL,
            purposes=[ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        ),
        "anypurpose": sign(
            "anypurpose", ca, names=USUAL, purposes=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]
        ),
        "unknown": sign("unknown", ca, names=USUAL, more=[(unknown, True)]),
        "unknowncasual": sign("unknowncasual", ca, names=USUAL, more=[(unknown, False)]),
        "emptyname": sign("", ca, names=USUAL),
        "long": sign("long", ca, names=USUAL, days=(-20, 36500)),
    }
    middle = sign("middle", by["shortca"], ca=True)
    made["toodeep"] = sign("toodeep", middle, names=USUAL)
    made["middle"] = middle
    # The same authority, twice: the old self-signed one, and one signed by another.
    crossed = sign("ca", by["other"], ca=True, key=ca.key)
    made["crossed"] = crossed
    return made


def _clients() -> dict[str, Signed]:
    ca = sign("clientca", ca=True)
    intermediate = sign("clientintermediate", ca, ca=True)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return {
        "clientca": ca,
        "clientintermediate": intermediate,
        "client": sign("telemetryd", ca, purposes=purposes),
        "client2": sign("second", ca, purposes=purposes),
        "clientrsa": sign("telemetryd-rsa", ca, key=rsa.generate_private_key(65537, 2048)),
        "clientexpired": sign("telemetryd", ca, days=(-20, -1)),
        "clientchain": sign("telemetryd", intermediate, purposes=purposes),
        "clientserver": sign("telemetryd", ca, purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
    }


def _write_forms(folder: Path, made: dict[str, Signed]) -> None:
    """Files of several certificates, and other forms than PEM of PKCS #8."""

    def write(name: str, *parts: bytes) -> None:
        (folder / name).write_bytes(b"".join(parts))

    ca, leaf, client = made["ca"], made["leaf"], made["client"]
    write(
        "byintermediate.chain.pem",
        made["byintermediate"].pem,
        made["intermediate"].pem,
        made["byintermediate"].key_pem(),
    )
    write(
        "byintermediate.full.pem",
        made["byintermediate"].pem,
        made["intermediate"].pem,
        ca.pem,
        made["byintermediate"].key_pem(),
    )
    write(
        "bysecond.chain.pem",
        made["bysecond"].pem,
        made["second"].pem,
        made["intermediate"].pem,
        made["bysecond"].key_pem(),
    )
    write(
        "bysecond.swapped.pem",
        made["bysecond"].pem,
        made["intermediate"].pem,
        made["second"].pem,
        made["bysecond"].key_pem(),
    )
    write("toodeep.chain.pem", made["toodeep"].pem, made["middle"].pem, made["toodeep"].key_pem())
    write("leaf.crossed.pem", leaf.pem, made["crossed"].pem, leaf.key_pem())
    write("leaf.expiredextra.pem", leaf.pem, made["expiredca"].pem, leaf.key_pem())
    write("bundle.crt", made["other"].pem, ca.pem, made["oldca"].pem)
    write("bundle.same.crt", made["sameca"].pem, ca.pem)
    write("bundle.expired.crt", made["expiredca"].pem, ca.pem)
    write("bundle.chain.crt", ca.pem, made["intermediate"].pem)
    write("twice.crt", ca.pem, ca.pem)
    write("ca.text.crt", b"subject=CN = ca\nissuer=CN = ca\n\n", ca.pem, b"\nthe end\n")
    write("ca.bom.crt", b"\xef\xbb\xbf", ca.pem)
    write("ca.crlf.crt", ca.pem.replace(b"\n", b"\r\n"))
    write("ca.nonewline.crt", ca.pem.rstrip())
    write("ca.indented.crt", b"".join(b"  " + line for line in ca.pem.splitlines(keepends=True)))
    write("ca.trusted.crt", ca.pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"))
    write("ca.x509.crt", ca.pem.replace(b" CERTIFICATE", b" X509 CERTIFICATE"))
    write("ca.der.crt", ca.certificate.public_bytes(serialization.Encoding.DER))
    write("ca.withkey.crt", ca.key_pem(), ca.pem)
    write("ca.keyonly.crt", ca.key_pem())
    write("ca.cut.crt", ca.pem[:200])
    write("ca.thencut.crt", ca.pem, ca.pem[:200])
    write(
        "ca.badthengood.crt",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ca.pem,
    )
    write(
        "ca.goodthenbad.crt",
        ca.pem,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    write("ca.headers.crt", ca.pem.replace(b"E-----\n", b"E-----\nSource: test\n\n", 1))
    write("ca.latin.crt", "# Zertifikat für\n".encode("latin-1"), ca.pem)
    write("ca.utf8.crt", "# Zertifikat für\n".encode(), ca.pem)
    write("ca.spaces.crt", ca.pem.replace(b"-----\n", b"-----   \n"))
    write("ca.joined.crt", ca.pem.rstrip(), made["other"].pem)
    write("text.crt", b"this is no certificate\n")
    write("empty.crt")
    write("blank.crt", b"\n\n  \n")
    lines = ca.pem.splitlines()
    write("ca.oneline.crt", lines[0], b"\n", b"".join(lines[1:-1]), b"\n", lines[-1], b"\n")
    write("client.ec.key", client.key_pem("SEC1"))
    write("client.encrypted.key", client.key_pem(password=b"secret"))
    write("client.encrypted.ec.key", client.key_pem("SEC1", password=b"secret"))
    write(
        "client.der.key",
        client.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    write("client.text.key", b"Bag Attributes\n    friendlyName: it\n", client.key_pem())
    write(
        "client.params.key",
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
        client.key_pem("SEC1"),
    )
    write("clientrsa.pkcs1.key", made["clientrsa"].key_pem("PKCS1"))
    write("clientchain.chain.crt", made["clientchain"].pem, made["clientintermediate"].pem)
    write("clientchain.swapped.crt", made["clientintermediate"].pem, made["clientchain"].pem)
