"""A daemon at debug level among servers that echo all they are sent: no view shows a credential."""

import base64
import http.client
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.echoing import Echoing, echoing_server
from tests.support import starter
from tests.support.daemon import Daemon

PIECE = 16


def jwt(name: str) -> str:
    parts = ({"alg": "RS256"}, {"sub": f"system:serviceaccount:x:{name}", "exp": 4102444800})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    signature = base64.urlsafe_b64encode(f"signature-of-{name}-7731-{name}".encode()).decode()
    return ".".join((*(part.rstrip("=") for part in encoded), signature.rstrip("=")))


SECRETS = {
    "token": jwt("first"),
    "rotated token": jwt("second"),
    "viewer's token": "sha256~vW1ewer5t0ken9Qx7Zb3Kd8Lm2Np4Rs6Tu",
    "exporter's token": "glpat-Exp0rt3rs8Own7Token6Of5Receiver",
    "API key": "apikey-Qm9vZ2llIHdvb2dpZQ-12345-67890",
    "proxy password": "pr0xyPassw0rd-5uper-5ecret-77",
    "password": "b4sicPassw0rd-0f-the-user-88!",
    "token in place of a path": "ghp_T0kenInPlace0fAPath1234567890",
    "viewer's malformed header": "Malf0rmed-Header-4uth-99887766",
}


def leaks(text: str) -> list[str]:
    """Names of secrets of which a piece is there, as it is, in base64 or in escapes."""
    plain = re.sub(r"%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), text)
    plain = re.sub(r"\\n|[\s\"'\\,]", "", plain).replace("-", "+").replace("_", "/")
    found = []
    for name, secret in SECRETS.items():
        padded = (b"\0" * before + secret.encode() for before in range(3))
        forms = (secret, *(base64.b64encode(each).decode()[4:-4] for each in padded))
        for form in (form.replace("-", "+").replace("_", "/") for form in forms):
            if any(form[at : at + PIECE] in plain for at in range(len(form) - PIECE + 1)):
                found.append(name)
                break
    return found


@pytest.fixture
def echoing() -> Iterator[Echoing]:
    with echoing_server() as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[Echoing]:
    with echoing_server() as server:
        yield server


def login(folder: Path, echoing: Echoing, kind: str) -> Path:
    """A kubeconfig; the double is the proxy on the way to itself."""
    token = folder / "token"
    token.write_text(SECRETS["token"])
    proxy = echoing.url.replace("://", f"://proxyuser:{SECRETS['proxy password']}@")
    user = (
        {"tokenFile": str(token)}
        if kind == "token"
        else {"username": "admin", "password": SECRETS["password"]}
    )
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": echoing.url, "proxy-url": proxy}}],
        "users": [{"name": "x", "user": user}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


def exporters(folder: Path, receiver: Echoing) -> str:
    (folder / "exporter-token").write_text(SECRETS["exporter's token"])
    (folder / "headers").write_text(f"X-Api-Key: {SECRETS['API key']}\n")
    headers = f'{SOON}headers_file = "{folder}/headers"\n'
    token = f'bearer_token_file = "{folder}/exporter-token"\n'
    kinds = (
        f'type = "http"\nurl = "{receiver.url}/in"\n{token}{headers}',
        f'type = "otlp"\nendpoint = "{receiver.url}"\n{headers}',
        'type = "secret"\n',
    )
    return "".join(
        f'[[exporters]]\nname = "e{number}"\ninterval = "1s"\n{kind}'
        for number, kind in enumerate(kinds)
    )


SOON = 'splay_max = "0s"\n'


def command(daemon: Daemon, *words: str) -> str:
    """All that a command prints, as an operator's shell with the same files would have it."""
    folder = str(daemon.config_file.parent)
    done = starter.run(
        *(*words, "--config", str(daemon.config_file)),
        env={**os.environ, "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder},
    )
    return f"{' '.join(words)}: {done.stdout}{done.stderr}"


def ask(daemon: Daemon, path: str, authorization: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    try:
        connection.putrequest("GET", path)
        connection.putheader("Authorization", authorization)
        connection.endheaders()
        response = connection.getresponse()
        return f"{path} {authorization[:3]}: {response.headers}{response.read().decode()}"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


@pytest.mark.timeout(420)  # a token file is read twice a minute, and informers back off
@pytest.mark.parametrize("kind", [pytest.param("token", marks=pytest.mark.long), "password"])
def test_no_view_shows_a_credential_that_a_server_echoes(
    tmp_path: Path, echoing: Echoing, receiver: Echoing, kind: str
) -> None:
    tables = exporters(tmp_path, receiver)
    views: list[str] = []
    daemon = Daemon(
        tmp_path,
        login(tmp_path, echoing, kind),
        f"kubernetes_auth = true\n{tables}",
        kubernetes='source = "kubernetes"',
    )
    try:
        daemon.wait_for("it listens", lambda: '"message":"started"' in daemon.log(), 60)
        daemon.wait_for("much is echoed", lambda: len(echoing.asked) > 6, 60)
        views += [
            ask(daemon, path, authorization)
            for path in ("/readyz?verbose", "/status.json", "/metrics")
            for authorization in (
                "Bearer " + SECRETS["viewer's token"],
                "Bearer  a " + SECRETS["viewer's malformed header"] + "\x01",
            )
        ]
        if kind == "token":
            (tmp_path / "token").write_text(SECRETS["rotated token"])
            echoing.refused.add(f"Bearer {SECRETS['token']}")
            rotated = f"Bearer {SECRETS['rotated token']}"
            daemon.wait_for("it is rotated", lambda: rotated in echoing.sent, 90)
            many = len(echoing.asked) + 4
            daemon.wait_for("both are echoed", lambda: len(echoing.asked) > many, 60)
        echoing.is_serving = True
        daemon.wait_for("the receiver is sent something", lambda: "/in" in receiver.asked, 120)
        wrong = f'[[exporters]]\nname = "w"\ntype = "http"\nurl = "{receiver.url}/w"\n'
        for value in ("", "/"):
            misplaced = f'bearer_token_file = "{value}{SECRETS["token in place of a path"]}"\n'
            daemon.configure(f"{tables}{wrong}{SOON}{misplaced}")
            views += [command(daemon, "ctl", "reload"), command(daemon, "check-config")]
            views += [daemon.get(path)[1] for path in ("/", "/status.json")]
        daemon.wait_for("the exporter fails", lambda: daemon.exporter("w")["last_error"], 60)
        views += [
            daemon.get(path)[1]
            for path in ("/", "/status.json", "/metrics", "/readyz?verbose", "/livez?verbose")
        ]
        sent = " ".join((*echoing.sent, *echoing.reviewed, *receiver.sent))
        echoing.sent.clear()  # a process knows what it sends itself, not what others have sent
        views += [
            command(daemon, *words) for words in (("ctl", "status"), ("doctor",), ("payload",))
        ]
    finally:
        daemon.stop()
    assert "[redacted]" in daemon.log(), "the server's words are there, without the credentials"
    everything = {"exporter's token", "API key", "proxy password", "viewer's token"}
    everything |= {"token", "rotated token"} if kind == "token" else {"password"}
    assert everything <= set(leaks(sent)), "all of them were sent"
    for view in (daemon.log(), *views):
        assert leaks(view) == [], [line for line in view.splitlines() if leaks(line)][:5]
