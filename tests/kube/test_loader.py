"""Tokens of an OIDC issuer are renewed, and only by an issuer whose certificate is trusted."""

import base64
import json
import tempfile
from pathlib import Path

import pytest
from aiohttp import web

from telemetryd.errors import Unavailable
from tests.informer.samples import Json
from tests.informer.scripted import Scripted, answer, kubeconfig, serve
from tests.kube.test_connection import connected, failure, get, only
from tests.support.certificates import Authority, server_side

pytestmark = pytest.mark.anyio


def token(name: str, expires_at: int) -> str:
    parts: list[Json] = [{"alg": "none"}, {"sub": name, "exp": expires_at}]
    return ".".join([*(_part(part) for part in parts), "x"])


def _part(part: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


OLD, NEW = token("old", 1), token("new", 4102444800)


@pytest.mark.filterwarnings("default::DeprecationWarning")  # of the library
@pytest.mark.parametrize("trust", ["data", "file", "other", "none"])
async def test_expired_token_is_renewed_by_an_issuer_that_is_trusted(
    tmp_path: Path, trust: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server"))
    asked: list[str] = []

    async def grant(request: web.BaseRequest) -> web.StreamResponse:
        asked.append((await request.read()).decode())
        return await answer({"id_token": NEW, "refresh_token": "two"})(request)

    async with serve(tls=tls) as server, serve(Scripted(), tls=tls) as issuer:
        server.others["/x"] = only(lambda: NEW)
        issuer.others["/.well-known/openid-configuration"] = answer(
            {"token_endpoint": f"{issuer.url}/token"}
        )
        issuer.others["/token"] = grant
        ca = authority.ca if trust != "other" else Authority(tmp_path, "other").ca
        oidc: Json = {
            "client-id": "x",
            "client-secret": "SENTINEL",
            "id-token": OLD,
            "refresh-token": "one",
            "idp-issuer-url": issuer.url,
        }
        if trust == "file":
            oidc["idp-certificate-authority"] = str(ca)
        elif trust != "none":
            data = base64.b64encode(ca.read_bytes()).decode()
            oidc["idp-certificate-authority-data"] = data
        user = {"auth-provider": {"name": "oidc", "config": oidc}}
        cluster = {"certificate-authority": "ca.crt"}
        config = kubeconfig(tmp_path / "config", server.url, cluster=cluster, user=user)
        async with connected(config) as client:
            if trust in {"data", "file"}:
                await get(client)
                assert len(asked) == 1
                assert "refresh_token=one" in asked[0]
            else:
                error = await failure(client)
                assert isinstance(error, Unavailable)
                assert "auth-provider oidc" in str(error)
                assert asked == []
                assert issuer.requests == [], "nothing secret is sent to one that isn't trusted"
