"""Validity of certificates, against a library that knows all of X.509."""

import base64
import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.kube.pem import Validity, parse_validity, read_validity

DATES = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(9999, 12, 31))  # noqa: DTZ001
KEY = ed25519.Ed25519PrivateKey.generate()


def pem(not_before: dt.datetime, not_after: dt.datetime, names: list[str]) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in names])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .sign(KEY, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@given(
    st.tuples(DATES, DATES).map(sorted),
    st.lists(st.text("abc", min_size=1, max_size=64), max_size=8),
    st.sampled_from([b"", b"Bag Attributes: none\r\n"]),
)
def test_validity_is_that_of_the_first_certificate(
    dates: list[dt.datetime], names: list[str], before: bytes
) -> None:
    first, last = (date.replace(microsecond=0, tzinfo=dt.UTC) for date in dates)
    other = pem(dt.datetime(2000, 1, 1), dt.datetime(2001, 1, 1), ["other"])  # noqa: DTZ001
    found = parse_validity(before + pem(first, last, names) + other)
    assert found == Validity(first.timestamp(), last.timestamp())


@given(st.binary())
def test_garbage_is_a_value_error_and_nothing_else(garbage: bytes) -> None:
    head, end = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"
    for body in (garbage, base64.b64encode(garbage), base64.b64encode(b"\x30\x80" + garbage)):
        with pytest.raises(ValueError):
            parse_validity(head + body + end)


def test_what_is_not_valid_now_says_since_when() -> None:
    validity = Validity(1000.0, 2000.0)
    assert validity.why_not(999.0) == "isn't valid before 1970-01-01T00:16:40Z"
    assert validity.why_not(1000.0) == validity.why_not(2000.0) == ""
    assert validity.why_not(2001.0) == "has expired on 1970-01-01T00:33:20Z"


def test_file_that_holds_none_has_no_validity(tmp_path: Path) -> None:
    assert read_validity(str(tmp_path / "gone")) is None
    (tmp_path / "junk").write_text("junk")
    assert read_validity(str(tmp_path / "junk")) is None
