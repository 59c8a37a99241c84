"""PEM as Go reads it, and certificates that OpenSSL reads only from files.

A CA is taken from memory. A client certificate and its key pass through a file in memory that is
gone as soon as OpenSSL has read it, even when the process is killed. ``ssl`` has a public reader
only for a peer's certificates, so a client certificate's Validity is read by hand (RFC 5280,
section 4.1, in DER, X.690), and nothing else of it.
"""

import base64
import binascii
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from telemetryd.kube.files import PEM_BYTES, read_small_file

_CERTIFICATE = re.compile(
    rb"^-----BEGIN CERTIFICATE-----[ \t\r]*\n"
    rb"([A-Za-z0-9+/= \t\r\n]*\n|)"
    rb"-----END CERTIFICATE-----[ \t\r]*$",
    re.MULTILINE,
)


def certificates_in(pem: bytes) -> list[bytes]:
    """DER of each certificate; other text is skipped, as Go's encoding/pem does.

    Blocks of another type or with headers don't count, nor does one that isn't base64.
    """
    found = []
    for block in _CERTIFICATE.finditer(pem):
        try:
            found.append(base64.b64decode(b"".join(block[1].split()), validate=True))
        except binascii.Error:
            continue
    return found


def trust(context: ssl.SSLContext, pem: bytes) -> int:
    """Have a context trust each certificate of a bundle that can be read; returns their number."""
    count = 0
    for der in certificates_in(pem):
        try:
            context.load_verify_locations(cadata=der)
        except (ssl.SSLError, ValueError):
            continue  # as in Go, the other certificates still count
        count += 1
    return count


def load_pair_from_memory(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Have a context show a client certificate.

    Raises:
        OSError: OpenSSL can't use them, or there is no place for a private file.
        ValueError: The key is encrypted.
    """
    chain = "".join(map(ssl.DER_cert_to_PEM_cert, certificates_in(certificate)))
    with _private_file(chain.encode()) as cert_file, _private_file(key) as key_file:
        # An encrypted key must not make OpenSSL ask on the terminal.
        context.load_cert_chain(cert_file, key_file, password=no_password)


def no_password() -> str:
    """Refuse a key that needs one.

    Raises:
        ValueError: Always.
    """
    raise ValueError("the key is encrypted")


@contextmanager
def _private_file(content: bytes) -> Iterator[str]:
    """Path of a file that only this process reads, while in the block."""
    try:
        held = os.memfd_create("telemetryd-pem", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # not Linux, or a filter forbids it
        with _file_in_folder(content) as path:
            yield path
        return
    try:
        path = f"/proc/self/fd/{held}"
        _write(held, content)
        if os.access(path, os.R_OK):
            yield path
        else:  # /proc isn't mounted
            with _file_in_folder(content) as path:
                yield path
    finally:
        os.close(held)


@contextmanager
def _file_in_folder(content: bytes) -> Iterator[str]:
    """Path of a file in a folder that only this user may open; both go at the block's end.

    Raises:
        OSError: No folder for temporary files is writable.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="telemetryd-")  # mode 0700
    except OSError as error:
        why = "no folder for a private file is writable, set $TMPDIR to one"
        raise OSError(error.errno, why) from error
    with folder as name:
        path = f"{name}/pem"
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(opened, content)
        finally:
            os.close(opened)
        yield path


def _write(opened: int, content: bytes) -> None:
    while content:
        content = content[os.write(opened, content) :]


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
