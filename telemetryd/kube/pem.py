"""PEM as Go reads it, and certificates that OpenSSL reads only from files.

A CA is taken from memory. A client certificate and its key pass through a file in memory that is
gone as soon as OpenSSL has read it, even when the process is killed.
"""

import base64
import binascii
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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

    Args:
        context: A client's.
        certificate: PEM of the certificate, followed by those that issued it.
        key: PEM of its key.

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
    """Path of a file that only this process reads, while in the block.

    Raises:
        OSError: There is no place for one.
    """
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
