"""The build commit over real TLS sockets: what is trusted, kept, retried and never sent."""

import asyncio
import datetime as dt
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from telemetryd.config import IdentityConfig
from telemetryd.gather.build_info import MAX_BODY_BYTES, RancherCommit
from tests.gather.readers import Fleet
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio
GOOD = b'{"Version":"v2.15.0","GitCommit":"0123abc","RancherPrime":"true"}'


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1, which is its own authority."""

    certificate_pem: str
    key_pem: str


def make_certificate(address: str = "127.0.0.1") -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rancher")])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(san, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    )


@cache
def trusted() -> Certificate:
    return make_certificate()


@dataclass
class Rancher:
    """A server of ``/rancherversion`` that answers as the test says and remembers who asked."""

    url: str = ""
    body: bytes = GOOD
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    held: anyio.Event | None = None
    requests: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        if self.held is not None:
            await self.held.wait()
        headers = {"Content-Type": self.content_type, **self.headers}
        return web.Response(body=self.body, status=self.status, headers=headers)


@asynccontextmanager
async def serving(tmp_path: Path, certificate: Certificate | None) -> AsyncIterator[Rancher]:
    rancher = Rancher()
    app = web.Application()
    app.router.add_get("/{path:.*}", rancher.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = None
    if certificate is not None:
        file = tmp_path / "server.pem"
        file.write_text(certificate.certificate_pem + certificate.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    host, port = runner.addresses[0][:2]
    rancher.url = f"{'http' if context is None else 'https'}://{host}:{port}"
    try:
        yield rancher
    finally:
        await runner.cleanup()


@dataclass
class World:
    """A Rancher on a socket, the settings that name it, and who asks it."""

    rancher: Rancher
    fleet: Fleet
    info: RancherCommit
    changes: list[str | None]

    @property
    def settled(self) -> bool:
        """The first try has ended, or none is needed."""
        return self.info.git_hash() is not None

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_async(condition)


Start = Callable[..., Awaitable[World]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts one world; what the keywords say goes for its overrides and timings."""
    async with AsyncExitStack() as stack:

        async def started(
            *,
            certificate: Certificate | None = None,
            cacerts: str = "",
            overrides: IdentityConfig | None = None,
            api_server: str = "",
            timeout_s: float = 30.0,
            retry_base_s: float = 60.0,
            prepare: Callable[[Rancher, Fleet], None] = lambda _rancher, _fleet: None,
        ) -> World:
            rancher = await stack.enter_async_context(serving(tmp_path, certificate))
            fleet = Fleet()
            fleet.set("server-url", rancher.url)
            fleet.set("cacerts", cacerts)
            prepare(rancher, fleet)
            info = RancherCommit(
                settings=fleet.settings,
                overrides=overrides or IdentityConfig(),
                api_server=lambda: api_server or rancher.url,
                rng=random.Random(1),
                timeout_s=timeout_s,
                retry_base_s=retry_base_s,
            )
            world = World(rancher, fleet, info, [])
            info.on_change(lambda: world.changes.append(info.git_hash()))
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            group.start_soon(info.run)
            return world

        yield started


async def test_the_commit_is_had_over_tls_checked_with_cacerts(start: Start) -> None:
    world = await start(certificate=trusted(), cacerts=trusted().certificate_pem)
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "0123abc"
    (request,) = world.rancher.requests
    assert request.path == "/rancherversion"
    assert request.secure


@pytest.mark.parametrize("kind", ["none", "another", "garbage", "not-ascii"])
async def test_a_certificate_that_is_not_trusted_is_refused(start: Start, kind: str) -> None:
    bundles = {
        "none": "",
        "another": make_certificate().certificate_pem,
        "garbage": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "not-ascii": "é",
    }
    world = await start(certificate=trusted(), cacerts=bundles[kind])
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"
    assert world.rancher.requests == []


async def test_a_certificate_for_another_host_is_refused(start: Start) -> None:
    other = make_certificate("127.0.0.9")
    world = await start(certificate=other, cacerts=other.certificate_pem)
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"


async def test_a_bundle_that_is_fixed_is_used_at_once(start: Start) -> None:
    world = await start(certificate=trusted(), cacerts="garbage")
    await world.until(lambda: world.settled)
    world.fleet.set("cacerts", trusted().certificate_pem)
    await world.until(lambda: world.info.git_hash() == "0123abc")
    assert world.changes == ["unknown", "0123abc"]


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "x/y", ""])
async def test_the_body_counts_and_not_its_content_type(start: Start, content_type: str) -> None:
    world = await start(prepare=lambda rancher, _: setattr(rancher, "content_type", content_type))
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "0123abc"


@pytest.mark.parametrize("commit", ["HEAD", "0123abc", "f" * 40, "f" * 128])
async def test_a_commit_may_have_any_sane_length(start: Start, commit: str) -> None:
    body = f'{{"GitCommit":"{commit}"}}'.encode()
    world = await start(prepare=lambda rancher, _: setattr(rancher, "body", body))
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == commit


async def test_a_commit_that_is_none_is_other_and_nothing_logs_it(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    body = b'{"GitCommit":"acme-build","Version":"v2.15.0-acme"}'

    def prepare(rancher: Rancher, fleet: Fleet) -> None:
        rancher.body = body
        fleet.set("server-version", "v2.15.0-acme")

    world = await start(prepare=prepare)
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "other"
    assert "acme" not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>sign in</html>",
        b"[]",
        b"{}",
        b"null",
        b'{"GitCommit":null}',
        b'{"GitCommit":7}',
        b'{"GitCommit":["a"]}',
        b'{"GitCommit":""}',
        b'{"GitCommit":"a b"}',
        b'{"GitCommit":"a\\n"}',
        b'{"GitCommit":"\\u0000"}',
        b'{"GitCommit":"\xc3\xa9"}',
        b'{"GitCommit":"\xff"}',
        b'{"GitCommit":"abc","Version":7}',
        b'{"GitCommit":"' + b"f" * 129 + b'"}',
        b'{"GitCommit":"abc","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"GitCommit":"abc"}' + b" " * MAX_BODY_BYTES,
    ],
)
async def test_a_body_that_names_no_commit_is_unknown(start: Start, body: bytes) -> None:
    world = await start(prepare=lambda rancher, _: setattr(rancher, "body", body))
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 401, 403, 404, 429, 500, 503])
async def test_any_status_but_200_is_unknown(start: Start, status: int) -> None:
    world = await start(prepare=lambda rancher, _: setattr(rancher, "status", status))
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"


async def test_a_redirect_is_not_followed(start: Start) -> None:
    def redirect(rancher: Rancher, _fleet: Fleet) -> None:
        rancher.status = 302
        rancher.headers = {"Location": f"{rancher.url}/elsewhere"}

    world = await start(prepare=redirect)
    await world.until(lambda: world.settled)
    assert [request.path for request in world.rancher.requests] == ["/rancherversion"]


async def test_nothing_that_identifies_anyone_is_sent(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password private\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")

    def with_credentials(rancher: Rancher, fleet: Fleet) -> None:
        rancher.headers = {"Set-Cookie": "session=private"}
        rancher.status = 503
        url = rancher.url.replace("://", "://me:private@")
        fleet.set("server-url", f"{url}/rancher/?token=private#private")

    world = await start(prepare=with_credentials, retry_base_s=0.01)
    await world.until(lambda: len(world.rancher.requests) > 1)
    request = world.rancher.requests[1]
    assert request.path_qs == "/rancher/rancherversion"
    assert "private" not in str(list(request.headers.items()))
    assert not {"Authorization", "Cookie"} & set(request.headers)


@pytest.mark.parametrize(
    "url", ["ftp://h", "rancher.example.org", "https://", "http://[", "http://127.0.0.1:99999", "/"]
)
async def test_a_server_url_that_is_none_is_unknown(start: Start, url: str) -> None:
    world = await start(prepare=lambda _, fleet: fleet.set("server-url", url))
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"


async def test_a_slow_endpoint_is_given_up_at_the_deadline(start: Start) -> None:
    world = await start(
        timeout_s=0.2, prepare=lambda rancher, _: setattr(rancher, "held", anyio.Event())
    )
    assert world.info.git_hash() is None
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"


async def test_a_server_that_answers_with_garbage_is_unknown(start: Start) -> None:
    async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(garbage, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        world = await start(prepare=lambda _, fleet: fleet.set("server-url", url))
        await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"


async def test_failures_are_retried_until_there_is_an_answer(start: Start) -> None:
    world = await start(
        retry_base_s=0.01, prepare=lambda rancher, _: setattr(rancher, "status", 503)
    )
    await world.until(lambda: len(world.rancher.requests) >= 3)
    assert world.info.git_hash() == "unknown"
    world.rancher.status = 200
    await world.until(lambda: world.info.git_hash() == "0123abc")
    asked = len(world.rancher.requests)
    await anyio.sleep(0.1)
    assert len(world.rancher.requests) == asked
    assert world.changes == ["unknown", "0123abc"]


async def test_retries_back_off(start: Start) -> None:
    began_s = anyio.current_time()
    world = await start(
        retry_base_s=0.1, prepare=lambda rancher, _: setattr(rancher, "status", 503)
    )
    await world.until(lambda: len(world.rancher.requests) == 4)
    assert anyio.current_time() - began_s >= 0.75 * (0.1 + 0.2 + 0.4)


async def test_the_last_good_commit_is_kept_until_the_version_changes(start: Start) -> None:
    world = await start(retry_base_s=0.01)
    await world.until(lambda: world.settled)
    world.rancher.status = 503
    world.fleet.set("server-url", world.rancher.url + "/moved")
    world.fleet.set("cacerts", "changed")
    world.fleet.set("telemetry-opt", "in")
    await anyio.sleep(0.05)
    assert world.info.git_hash() == "0123abc"
    assert len(world.rancher.requests) == 1
    world.rancher.status = 200
    world.fleet.set("cacerts", "")
    world.rancher.body = b'{"Version":"v2.16.0","GitCommit":"fedcba9"}'
    world.fleet.set("server-version", "v2.16.0")
    assert world.info.git_hash() == "unknown"
    await world.until(lambda: world.info.git_hash() == "fedcba9")
    assert len(world.rancher.requests) == 2


async def test_an_old_replica_that_still_answers_is_asked_again(start: Start) -> None:
    world = await start(
        retry_base_s=0.02, prepare=lambda _, fleet: fleet.set("server-version", "v2.16.0")
    )
    await world.until(lambda: world.info.git_hash() == "0123abc")
    world.rancher.status = 503
    asked = len(world.rancher.requests)
    await world.until(lambda: len(world.rancher.requests) > asked)
    assert world.info.git_hash() == "0123abc"
    world.rancher.status = 200
    world.rancher.body = b'{"Version":"v2.16.0","GitCommit":"fedcba9"}'
    await world.until(lambda: world.info.git_hash() == "fedcba9")


async def test_nothing_is_asked_before_the_server_url_is_known(start: Start) -> None:
    world = await start(prepare=lambda _, fleet: fleet.set("server-url", ""))
    await anyio.sleep(0.05)
    assert not world.settled
    assert world.info.git_hash() is None
    world.fleet.set("server-url", world.rancher.url)
    await world.until(lambda: world.info.git_hash() == "0123abc")


async def test_an_override_is_never_asked_for(start: Start) -> None:
    world = await start(overrides=IdentityConfig(git_hash="mine"))
    assert world.settled
    await anyio.sleep(0.05)
    assert world.info.git_hash() == "mine"
    assert world.rancher.requests == []


async def test_a_server_url_of_the_configuration_is_asked(start: Start) -> None:
    world = await start(overrides=IdentityConfig(server_url="http://127.0.0.1:9"))
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"
    assert world.rancher.requests == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0.0.0.0",
        "0",
        "[::]",
    ],
)
async def test_this_machine_is_not_asked_for_who_edits_the_setting(
    start: Start, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    def elsewhere(rancher: Rancher, fleet: Fleet) -> None:
        fleet.set("server-url", rancher.url.replace("127.0.0.1", host))

    world = await start(prepare=elsewhere, api_server="https://10.43.0.1:443")
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "unknown"
    assert world.rancher.requests == []
    assert "cannot get the git commit" in caplog.text


async def test_refused_address_is_named_with_the_fix(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    world = await start(api_server="https://10.43.0.1:443")
    await world.until(lambda: world.settled)
    assert "server-url leads to 127.0.0.1, an address of this machine" in caplog.text
    assert "identity.git_hash" in caplog.text


async def test_another_port_of_the_api_servers_host_is_not_asked(start: Start) -> None:
    world = await start(api_server="https://127.0.0.1:6443")
    await world.until(lambda: world.settled)
    assert world.rancher.requests == []


async def test_cancelling_amid_a_request_ends_it(start: Start) -> None:
    world = await start(prepare=lambda rancher, _: setattr(rancher, "held", anyio.Event()))
    await world.until(lambda: bool(world.rancher.requests))
    assert not world.settled


async def test_an_override_that_comes_later_is_used_at_once_and_announced(start: Start) -> None:
    world = await start()
    await world.until(lambda: world.info.git_hash() == "0123abc")
    world.info.override(IdentityConfig(git_hash="mine"))
    assert world.info.git_hash() == "mine"
    world.info.override(IdentityConfig())
    assert world.info.git_hash() == "0123abc"
    assert world.changes == ["0123abc", "mine", "0123abc"]
    assert len(world.rancher.requests) == 1


async def test_an_override_that_goes_leaves_nothing_settled_before_the_first_answer(
    start: Start,
) -> None:
    world = await start(overrides=IdentityConfig(git_hash="mine"))
    world.info.override(IdentityConfig())
    assert world.info.git_hash() is None
    await world.until(lambda: world.settled)
    assert world.info.git_hash() == "0123abc"


async def test_a_server_url_that_comes_later_is_asked(start: Start) -> None:
    world = await start(prepare=lambda _, fleet: fleet.set("server-url", ""))
    world.info.override(IdentityConfig(server_url=world.rancher.url))
    await world.until(lambda: world.info.git_hash() == "0123abc")
