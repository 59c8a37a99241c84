"""Reads the validity of a client certificate.

``ssl`` has a public reader only for a peer's certificates, so this reads the Validity by hand
(RFC 5280, section 4.1, in DER, X.690), and nothing else. OpenSSL checks the certificate.
"""

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from telemetryd.kube.files import PEM_BYTES, read_small_file

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)
_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is valid, in Unix seconds."""

    not_before_s: float
    not_after_s: float

    def why_not(self, now_s: float) -> str:
        """Why it isn't valid at a Unix time in seconds, empty where it is."""
        if now_s > self.not_after_s:
            return f"has expired on {_date(self.not_after_s)}"
        return f"isn't valid before {_date(self.not_before_s)}" if now_s < self.not_before_s else ""


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_validity(path: str) -> Validity | None:
    """Validity of the first certificate in a file, None where it can't be read; blocks."""
    try:
        return parse_validity(read_small_file(path, PEM_BYTES))
    except (OSError, ValueError):
        return None


def parse_validity(pem: bytes) -> Validity:
    """Validity of the first certificate in a PEM.

    Raises:
        ValueError: It holds none that can be read.
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate")
    certificate, _ = _take(base64.b64decode(found[1]), _SEQUENCE)
    rest, _ = _take(certificate, _SEQUENCE)  # tbsCertificate
    if rest[:1] == bytes([_VERSION]):
        _, rest = _take(rest, _VERSION)
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serialNumber, signature, issuer
        _, rest = _take(rest, tag)
    validity, _ = _take(rest, _SEQUENCE)
    not_before_s, validity = _take_time(validity)
    not_after_s, _ = _take_time(validity)
    return Validity(not_before_s, not_after_s)


def _take(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """Content of the element that comes first, and what comes after it.

    Raises:
        ValueError: Another element comes first, or it breaks off.
    """
    if len(data) < 2 or data[0] != tag:  # noqa: PLR2004 - tag and length
        raise ValueError("not the certificate's layout")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if start + length > len(data):
        raise ValueError("breaks off")
    return data[start : start + length], data[start + length :]


def _take_time(data: bytes) -> tuple[float, bytes]:
    tag = _GENERALIZED_TIME if data[:1] == bytes([_GENERALIZED_TIME]) else _UTC_TIME
    content, rest = _take(data, tag)
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), rest
