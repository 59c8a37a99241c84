"""The server as such: discovery, authentication, TLS, versions, and coming back."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.apiserver.double.apiserver import ApiServer, ServerOptions
from tests.apiserver.double.client import SECRETS, SETTINGS, Api, new_server, setting

pytestmark = pytest.mark.anyio

MANAGEMENT = "/apis/management.cattle.io/v3"


async def test_discovery_lists_what_is_served(api: Api) -> None:
    assert (await api.get("/api")).body["versions"] == ["v1"]
    groups = (await api.get("/apis")).body["groups"]
    assert {group["name"] for group in groups} == {
        "management.cattle.io",
        "telemetry.cattle.io",
    }
    assert (await api.get("/apis/telemetry.cattle.io")).body["kind"] == "APIGroup"
    core = (await api.get("/api/v1")).body["resources"]
    assert [row["name"] for row in core] == [
        "namespaces",
        "namespaces/status",
        "nodes",
        "nodes/status",
        "secrets",
    ]
    management = (await api.get(MANAGEMENT)).body
    assert management["groupVersion"] == "management.cattle.io/v3"
    assert {row["name"]: row["namespaced"] for row in management["resources"]} == {
        "clusters": False,
        "nodes": True,
        "settings": False,
        "features": False,
        "projects": True,
    }
    requests = (await api.get("/apis/telemetry.cattle.io/v1")).body["resources"]
    assert requests[1]["verbs"] == ["get", "patch"]


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/nothing", True),
        ("/apis/foo.io", True),
        ("/apis/foo.io/v1", True),
        ("/apis/foo.io/v1/bars", True),
        (f"{MANAGEMENT}/bars", True),
        ("/apis/management.cattle.io/v9/clusters", True),
        (f"{MANAGEMENT}/namespaces/x/clusters", True),
        (f"{MANAGEMENT}/nodes/x", True),
        ("/api/v1/foos", False),
        ("/api/v1/namespaces/x/foos/y", False),
        (f"{SECRETS}/a/status", False),
        (f"{SECRETS}/a/b/c", False),
        (f"{MANAGEMENT}/clusters/c/status", False),
    ],
)
async def test_unknown_path_is_not_found_in_the_real_form(api: Api, path: str, plain: bool) -> None:
    answer = await api.get(path)
    assert answer.code == 404
    if plain:
        assert answer.body == "404 page not found\n"
    else:
        assert answer.body["reason"] == "NotFound"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{SECRETS}/a"),
        ("POST", "/api/v1/secrets"),
        ("PUT", SECRETS),
        ("PATCH", SECRETS),
        ("DELETE", SECRETS),
        ("PUT", f"{SECRETS}/a"),
        ("POST", "/apis"),
    ],
)
async def test_wrong_method_is_not_allowed(api: Api, method: str, path: str) -> None:
    answer = await api.request(method, path, {})
    assert (answer.code, answer.body["reason"]) == (405, "MethodNotAllowed")


async def test_version_and_health(api: Api) -> None:
    version = (await api.get("/version")).body
    assert (version["gitVersion"], version["minor"]) == ("v1.34.1", "34")
    for path in ("/readyz", "/livez", "/healthz"):
        assert (await api.get(path)).body == "ok"


async def test_rancher_version_is_json_under_another_name(api: Api) -> None:
    async with api.session.get(f"{api.url}/rancherversion") as response:
        assert response.content_type == "text/plain"
        body = await response.json(content_type=None)
    assert body == {"Version": "v2.15.0", "GitCommit": "59bd052e", "RancherPrime": "true"}


async def test_plain_kubernetes_has_no_rancher_version() -> None:
    server = new_server(rancher_version=None)
    async with server.serve() as endpoint, aiohttp.ClientSession() as session:
        assert (await Api(session, endpoint.url).get("/rancherversion")).code == 404


async def test_token_decides_who_sees_what() -> None:
    server = new_server(token="right")
    async with server.serve() as endpoint, aiohttp.ClientSession() as session:
        api = Api(session, endpoint.url)

        async def get(path: str, token: str | None) -> tuple[int, str]:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = await api.request("GET", path, headers=headers)
            return answer.code, answer.body["message"] if answer.code >= 400 else ""

        assert await get(SECRETS, "right") == (200, "")
        assert await get(SECRETS, "wrong") == (401, "Unauthorized")
        assert await get("/version", "wrong") == (401, "Unauthorized")
        assert await get("/version", None) == (200, "")
        assert await get("/rancherversion", None) == (200, "")
        for path in ("/api", "/nothing", SETTINGS, f"{SECRETS}/a"):
            assert await get(path, None) == (
                403,
                f'forbidden: User "system:anonymous" cannot get path "{path}"',
            )


async def test_tls_serves_under_the_given_certificate(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    server = new_server(certificate=certificate)
    context = ssl.create_default_context(cafile=certificate[0])
    async with server.serve() as endpoint, aiohttp.ClientSession() as session:
        assert endpoint.url == f"https://127.0.0.1:{endpoint.port}"
        async with session.get(f"{endpoint.url}/readyz", ssl=context) as response:
            assert await response.text() == "ok"


async def test_server_that_comes_back_on_its_port_has_its_objects(server: ApiServer) -> None:
    async with server.serve() as endpoint:
        server.put_object(setting("a"))
        port = endpoint.port
    async with server.serve(port) as endpoint, aiohttp.ClientSession() as session:
        assert endpoint.port == port
        assert (await Api(session, endpoint.url).get(SETTINGS)).names == ["a"]


async def test_leaving_ends_open_watches_at_once(server: ApiServer) -> None:
    async with aiohttp.ClientSession() as session:
        async with server.serve() as endpoint:
            response = await session.get(f"{endpoint.url}{SETTINGS}?watch=1")
        # A clean end: what is left open is cut off in the middle after a second.
        assert await response.content.read() == b""


@pytest.mark.parametrize(
    "options", [{"bookmark_interval_s": 0.0}, {"fresh_wait_s": -1.0}, {"history_events": 0}]
)
async def test_options_without_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ServerOptions(**options)  # type: ignore[arg-type]


def self_signed(folder: Path) -> tuple[Path, Path]:
    """PEM files of a certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "demo")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "tls.crt", folder / "tls.key"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private
