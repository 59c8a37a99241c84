"""Validity of certificates, against a library that knows all of X.509; keys that leave no file.

Keys are of a kubeconfig or of a plugin, and need no folder.
"""

import base64
import datetime as dt
import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.kube.pem import Validity, load_pair_from_memory, parse_validity, read_validity
from tests.informer.samples import Json
from tests.informer.scripted import answer, kubeconfig, serve
from tests.kube.test_connection import connected, get, granting, inline, plugin
from tests.support.certificates import Authority, Pair, server_side

DATES = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(9999, 12, 31))  # noqa: DTZ001
KEY = ed25519.Ed25519PrivateKey.generate()
OK = answer({"kind": "Thing"})


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


def granted(folder: Path, pair: Pair) -> Json:
    """A user whose plugin grants this certificate."""
    script = granting(
        clientCertificateData=pair.cert.read_text(), clientKeyData=pair.key.read_text()
    )
    return plugin(folder / "plugin", script)


@pytest.mark.parametrize("by_plugin", [False, True])
@pytest.mark.anyio
async def test_login_works_without_any_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_plugin: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    authority = Authority(tmp_path)
    pair = authority.issue("client")
    tls = server_side(authority.issue("server"), client_ca=authority.ca)
    cluster = {"certificate-authority-data": inline_ca(authority)}
    user = granted(tmp_path, pair) if by_plugin else inline(pair)
    async with serve(tls=tls) as server:
        server.others["/x"] = OK
        config = kubeconfig(tmp_path / "config", server.url, cluster=cluster, user=user)
        async with connected(config) as client:
            await get(client)


def inline_ca(authority: Authority) -> str:
    data = inline(Pair(authority.ca, authority.ca))
    return str(data["client-certificate-data"])


def test_pair_passes_through_a_private_folder_where_there_are_no_files_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.delattr(os, "memfd_create")
    pair = Authority(tmp_path).issue("client")
    cert, key = pair.cert.read_bytes(), pair.key.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(OSError, match="TMPDIR"):
        load_pair_from_memory(context, cert, key)
    seen: list[int] = []
    load = ssl.SSLContext.load_cert_chain

    def look(self: ssl.SSLContext, *files: str, **options: object) -> None:
        seen.extend(Path(name).stat().st_mode & 0o777 for name in files)
        seen.extend(Path(name).parent.stat().st_mode & 0o777 for name in files)
        load(self, *files, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    (tmp_path / "scratch").mkdir()
    load_pair_from_memory(context, cert, key)
    assert seen == [0o600, 0o600, 0o700, 0o700]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("ending", ["returns", "hangs", "is killed"])
def test_no_file_is_left_when_the_process_has_ended(tmp_path: Path, ending: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    user = granted(tmp_path, Authority(tmp_path).issue("client"))
    kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user=user)
    ended = subprocess.run(
        [sys.executable, "-c", CONNECTS, str(tmp_path / "config"), ending],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == (-9 if ending == "is killed" else 7), ended.stderr
    assert ended.stdout == "[]\n"
    assert list(scratch.iterdir()) == []


CONNECTS = """
import os, signal, sys, threading
import anyio
from telemetryd.__main__ import _leave
from telemetryd.config.settings import KubernetesConfig
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats

async def main():
    config = KubernetesConfig(kubeconfig=sys.argv[1])
    async with KubeClient.connect(config, KubeStats(), environ={}):
        print(os.listdir(os.environ["TMPDIR"]), flush=True)
        if sys.argv[2] == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "hangs":
    threading.Thread(target=threading.Event().wait).start()  # as one that hangs in a disk
anyio.run(main)
_leave(7)
"""
